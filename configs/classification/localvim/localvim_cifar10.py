_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="localvim_tiny",
        img_size=32,
        patch_size=4,
        depth=3,
        dim=64,
        d_state=2,
        routes="windowed",
    )
)
