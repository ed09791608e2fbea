# As published, at 256 pixels.
_base_ = "../../_base_/imagenet.py"
model = dict(backbone=dict(name="hrvmamba_small", drop_path_rate=0.2))
train_dataloader = dict(dataset=dict(transform=dict(input_size=256)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=256)))
test_dataloader = val_dataloader
