_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="groupmamba_tiny",
        depths=(1, 1, 2, 1),
        dims=(24, 48, 96, 144),
        stem_dim=16,
        mlp_ratios=(4, 4, 4, 4),
        distilled=False,
    )
)
