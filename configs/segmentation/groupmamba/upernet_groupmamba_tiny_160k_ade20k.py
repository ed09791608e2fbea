_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="groupmamba_tiny", drop_path_rate=0.05),
    decode_head=dict(in_channels=[64, 128, 348, 448]),
    auxiliary_head=dict(in_channels=348),
)
