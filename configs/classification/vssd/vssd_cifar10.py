_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="vssd_micro",
        depths=(1, 1, 2, 1),
        dims=(24, 48, 96, 144),
        heads=(2, 4, 8, 12),
        d_state=16,
    )
)
