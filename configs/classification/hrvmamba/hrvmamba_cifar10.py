_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="hrvmamba_nano",
        modules=(1, 1, 1),
        depths=(1, 1, 1),
        dims=(16, 32, 64, 128),
        neck_dims=(32, 64, 96, 128),
        num_features=256,
    )
)
