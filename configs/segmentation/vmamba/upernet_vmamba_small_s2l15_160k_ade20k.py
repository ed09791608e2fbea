_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="vmamba_small_s2l15", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
