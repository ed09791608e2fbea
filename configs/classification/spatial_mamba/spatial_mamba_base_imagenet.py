# As published but for MESA, an auxiliary loss of strength 2.0, which is not part of it.
_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="spatial_mamba_base", drop_path_rate=0.5))
