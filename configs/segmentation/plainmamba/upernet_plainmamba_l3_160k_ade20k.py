_base_ = "../../_base_/segmentation/upernet_160k.py"
model = dict(
    backbone=dict(name="plainmamba_l3", drop_path_rate=0.3),
    decode_head=dict(in_channels=[448, 448, 448, 448]),
    auxiliary_head=dict(in_channels=448, in_index=3),
)
