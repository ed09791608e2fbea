_base_ = ["../../_base_/detection/bccd_mosaic.py", "../../_base_/detection/mamba_yolo.py"]
custom_imports = dict(imports=["statescan.mm", "statescan.mm.models.mamba_yolo"])
model = dict(
    backbone=dict(name="mamba_yolo_tiny"),
    neck=dict(in_channels=[64, 128, 256]),
    bbox_head=dict(num_classes=3, in_channels=[64, 128, 256]),
)
