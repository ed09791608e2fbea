# The backbone alone; its authors publish no training on ImageNet, only of the detector on COCO.
_base_ = "../../_base_/cifar10.py"
model = dict(
    backbone=dict(
        name="mamba_yolo_tiny",
        depths=(1, 1, 2, 1),
        dims=(24, 48, 96, 144),
    )
)
