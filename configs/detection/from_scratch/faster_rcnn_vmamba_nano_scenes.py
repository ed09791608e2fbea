_base_ = "../../_base_/detection/faster_rcnn_scenes.py"
model = dict(backbone=dict(name="vmamba_nano"), neck=dict(in_channels=[32, 64, 128, 192]))
