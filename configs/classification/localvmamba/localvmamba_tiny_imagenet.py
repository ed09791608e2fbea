_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="localvmamba_tiny", drop_path_rate=0.2))
