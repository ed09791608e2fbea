_base_ = "../../_base_/detection/mask_rcnn_3x.py"
model = dict(
    backbone=dict(name="vmamba_tiny_s1l8", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
