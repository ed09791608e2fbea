_base_ = "../../_base_/detection/mask_rcnn_1x.py"
model = dict(
    backbone=dict(name="efficientvmamba_tiny", drop_path_rate=0.2),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
