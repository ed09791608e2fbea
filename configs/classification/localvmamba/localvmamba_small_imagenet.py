_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="localvmamba_small", drop_path_rate=0.2))
