_base_ = "../../_base_/segmentation/fcn_camvid.py"
model = dict(
    backbone=dict(name="vmamba_nano"),
    decode_head=dict(in_channels=[32, 64, 128, 192]),
)
