_base_ = "../../_base_/detection/mask_rcnn_1x.py"
model = dict(
    backbone=dict(name="vmamba_base_s2l15", drop_path_rate=0.6),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
