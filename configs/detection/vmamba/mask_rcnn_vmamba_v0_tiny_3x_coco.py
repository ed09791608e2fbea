_base_ = "../../_base_/detection/mask_rcnn_3x.py"
model = dict(
    backbone=dict(name="vmamba_v0_tiny", drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
