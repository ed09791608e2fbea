_base_ = "../../_base_/segmentation/upernet_camvid.py"
model = dict(
    backbone=dict(_delete_=True, type="ResNet", depth=18),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
