_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="hrvmamba_base", neck_features=True, drop_path_rate=0.15),
    decode_head=dict(in_channels=[128, 256, 512, 2048]),
    auxiliary_head=dict(in_channels=512),
)
