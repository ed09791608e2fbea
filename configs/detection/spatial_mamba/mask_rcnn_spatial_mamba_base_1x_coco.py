_base_ = "../../_base_/detection/mask_rcnn_1x.py"
model = dict(
    backbone=dict(name="spatial_mamba_base", drop_path_rate=0.5),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
