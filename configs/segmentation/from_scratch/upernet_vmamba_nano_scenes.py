_base_ = "../../_base_/segmentation/upernet_scenes.py"
model = dict(
    backbone=dict(name="vmamba_nano"),
    decode_head=dict(in_channels=[32, 64, 128, 192]),
    auxiliary_head=dict(in_channels=128),
)
