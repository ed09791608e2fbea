# CamVid for 16 epochs with HRNet's head (arXiv 1908.07919): all maps at the finest resolution,
# concatenated, a 1x1 convolution and the classifier. HRVMamba-nano takes seven times as long an
# image as VMamba-nano.
_base_ = "upernet_camvid.py"
epochs = 16
model = dict(
    decode_head=dict(
        _delete_=True,
        type="FCNHead",
        in_index=(0, 1, 2, 3),
        channels=128,
        input_transform="resize_concat",
        kernel_size=1,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=dict(type="BN"),
    ),
    auxiliary_head=None,
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        begin=1,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs)
