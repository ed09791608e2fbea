_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="vssd_micro", drop_path_rate=0.1),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
