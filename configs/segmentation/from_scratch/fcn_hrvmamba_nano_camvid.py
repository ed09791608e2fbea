_base_ = "../../_base_/segmentation/fcn_camvid.py"
model = dict(
    backbone=dict(name="hrvmamba_nano", neck_features=False),
    decode_head=dict(in_channels=[8, 16, 32, 64]),
)
