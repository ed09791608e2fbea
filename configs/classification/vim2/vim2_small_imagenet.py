# The paper states no stochastic depth; this is that of VMamba's small model.
_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vim2_small", drop_path_rate=0.3))
