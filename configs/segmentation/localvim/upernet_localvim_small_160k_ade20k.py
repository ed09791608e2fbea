_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="localvim_small", drop_path_rate=0.1, features="mixer"),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384, in_index=3),
)
