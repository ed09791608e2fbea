_base_ = "../../_base_/imagenet.py"
model = dict(
    backbone=dict(name="efficientvmamba_base", drop_path_rate=0.1),
    mixup=dict(mixup_alpha=0.2),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.04), clip_grad=dict(max_norm=1.0))
