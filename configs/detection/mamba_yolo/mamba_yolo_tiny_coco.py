_base_ = "../../_base_/detection/mamba_yolo_300e.py"
model = dict(
    backbone=dict(name="mamba_yolo_tiny"),
    neck=dict(in_channels=[64, 128, 256], scans=1),
    bbox_head=dict(num_classes=80, in_channels=[64, 128, 256]),
)
