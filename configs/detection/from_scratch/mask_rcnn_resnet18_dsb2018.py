_base_ = "../../_base_/detection/mask_rcnn_dsb2018.py"
model = dict(
    backbone=dict(_delete_=True, type="ResNet", depth=18),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
