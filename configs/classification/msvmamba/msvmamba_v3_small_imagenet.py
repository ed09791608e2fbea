_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="msvmamba_v3_small", drop_path_rate=0.4))
