# UPerNet for 60k iterations of ADE20K in batches of 32, tested on overlapping windows: Vim's.
_base_ = "upernet_160k.py"
model = dict(test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)))
train_dataloader = dict(batch_size=4)  # on each of 8 GPUs
train_cfg = dict(max_iters=60000, val_interval=6000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=60000),
]
