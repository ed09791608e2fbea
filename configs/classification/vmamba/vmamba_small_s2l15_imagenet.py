_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vmamba_small_s2l15", drop_path_rate=0.3))
