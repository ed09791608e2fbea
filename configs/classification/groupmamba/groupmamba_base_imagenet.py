# As published but for hard distillation from regnety_160, which is not part of it.
_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="groupmamba_base", drop_path_rate=0.05))
