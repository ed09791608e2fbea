_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vmamba_v0_base", drop_path_rate=0.5))
