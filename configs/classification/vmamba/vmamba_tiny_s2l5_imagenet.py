_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vmamba_tiny_s2l5", drop_path_rate=0.2))
