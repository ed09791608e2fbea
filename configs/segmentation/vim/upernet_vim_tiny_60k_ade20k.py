# Learning rate, weight decay and layer decay are those of the authors' scripts.
_base_ = "../../_base_/segmentation/upernet_60k.py"
model = dict(
    backbone=dict(
        name="vim_tiny",
        drop_path_rate=0.1,
        class_token=False,
        pyramid=(5, 11, 17, 23),
        features="mixer",
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=192),
    auxiliary_head=dict(in_channels=192),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.0002, weight_decay=0.1), paramwise_cfg=dict(layer_decay=0.92)
)
