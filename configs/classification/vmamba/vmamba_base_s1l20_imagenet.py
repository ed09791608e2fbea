_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vmamba_base_s1l20", drop_path_rate=0.5))
