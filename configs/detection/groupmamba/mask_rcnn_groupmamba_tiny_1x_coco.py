_base_ = "../../_base_/detection/mask_rcnn_1x.py"
model = dict(
    backbone=dict(name="groupmamba_tiny", drop_path_rate=0.05),
    neck=dict(in_channels=[64, 128, 348, 448]),
)
