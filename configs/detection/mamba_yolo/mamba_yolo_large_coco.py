_base_ = "../../_base_/detection/mamba_yolo_300e.py"
model = dict(
    backbone=dict(name="mamba_yolo_large"),
    neck=dict(in_channels=[192, 384, 576], scans=2),
    bbox_head=dict(num_classes=80, in_channels=[192, 384, 576]),
)
