_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="plainmamba_l2", drop_path_rate=0.2),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384, in_index=3),
)
