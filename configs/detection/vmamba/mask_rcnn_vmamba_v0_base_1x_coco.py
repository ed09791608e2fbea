_base_ = "../../_base_/detection/mask_rcnn_1x.py"
model = dict(
    backbone=dict(name="vmamba_v0_base", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
