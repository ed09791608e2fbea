_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="vim_small", drop_path_rate=0.05))
train_dataloader = dict(batch_size=64)
auto_scale_lr = dict(base_batch_size=512)
