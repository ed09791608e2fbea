_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="vssd_tiny", drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
