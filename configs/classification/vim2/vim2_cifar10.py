_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="vim2_tiny",
        depths=(1, 1, 1, 1),
        dims=(32, 64, 128, 192),
    )
)
