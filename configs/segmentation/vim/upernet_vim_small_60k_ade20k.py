# Learning rate, weight decay and layer decay are those of the authors' scripts.
_base_ = "../../_base_/segmentation/upernet_60k.py"
model = dict(
    backbone=dict(
        name="vim_small",
        drop_path_rate=0.1,
        class_token=False,
        pyramid=(5, 11, 17, 23),
        features="input",
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.0001, weight_decay=0.05), paramwise_cfg=dict(layer_decay=0.95)
)
