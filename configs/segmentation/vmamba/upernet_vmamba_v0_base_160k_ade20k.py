_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="vmamba_v0_base", drop_path_rate=0.1),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
