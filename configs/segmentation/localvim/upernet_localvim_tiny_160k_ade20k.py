_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="localvim_tiny", drop_path_rate=0.1, features="mixer"),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192, in_index=3),
)
