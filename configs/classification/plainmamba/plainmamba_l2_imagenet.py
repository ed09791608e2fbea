_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="plainmamba_l2", drop_path_rate=0.2))
