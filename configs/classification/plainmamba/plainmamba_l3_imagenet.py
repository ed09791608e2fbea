_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="plainmamba_l3", drop_path_rate=0.4))
