_base_ = "../../_base_/detection/mask_rcnn_dsb2018.py"
model = dict(backbone=dict(name="vmamba_nano"), neck=dict(in_channels=[32, 64, 128, 192]))
