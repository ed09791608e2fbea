_base_ = "../../_base_/detection/mask_rcnn_3x.py"
model = dict(
    backbone=dict(name="msvmamba_micro", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
