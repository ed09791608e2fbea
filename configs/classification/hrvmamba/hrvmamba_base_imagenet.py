_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="hrvmamba_base", drop_path_rate=0.2))
