_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="msvmamba_micro", drop_path_rate=0.2))
