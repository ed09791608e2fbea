# As published but for MESA, an auxiliary loss of strength 1.0, which is not part of it.
_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="spatial_mamba_tiny", drop_path_rate=0.2))
