_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="spatial_mamba_small", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
