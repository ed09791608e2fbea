# What the short trainings from scratch on real images share, whatever their backbone.
_base_ = "runtime.py"
runner_type = "StateScanRunner"
env_cfg = dict(torch_threads=1)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
