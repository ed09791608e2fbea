_base_ = "../../_base_/detection/mask_rcnn_3x.py"
model = dict(
    backbone=dict(name="localvmamba_small", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
