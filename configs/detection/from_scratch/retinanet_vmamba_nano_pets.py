_base_ = "../../_base_/detection/retinanet_pets.py"
model = dict(
    backbone=dict(name="vmamba_nano", out_indices=(1, 2)),
    neck=dict(in_channels=[64, 128], start_level=0),
)
