_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vim_tiny"))
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
