# On the four branches themselves: the classifier's neck has 17 times their parameters. This takes
# half an hour of one CPU core, fcn_hrvmamba_nano_camvid a third of that.
_base_ = "../../_base_/segmentation/upernet_camvid.py"
model = dict(
    backbone=dict(name="hrvmamba_nano", neck_features=False),
    decode_head=dict(in_channels=[8, 16, 32, 64]),
    auxiliary_head=dict(in_channels=32),
)
