_base_ = "../../_base_/cifar10.py"
model = dict(backbone=dict(name="vmamba_nano"))
