_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="msvmamba_nano",
        depths=(1, 1, 2, 1),
        dims=(24, 48, 96, 144),
    )
)
