# A small motion predictor on PETS09-S2L1: trained on the first 400 frames, tested on the others.
_base_ = "../../_base_/motion.py"

data_root = "data/pets09_s2l1"
dim, steps = 64, 10
model = dict(predictor=dict(dim=dim, steps=steps))

windows = dict(files=["gt.txt"], shortest=1)
# Over the training frames det.txt is off gt.txt by 4 to 14 % of the boxes' sizes from one frame to
# the next: here by 7.5 %, one and a half twentieths.
train_dataloader = dict(dataset=dict(**windows, frames=(1, 400), jitter=1.5))
val_dataloader = dict(dataset=dict(**windows, frames=(401, 795)))
test_dataloader = val_dataloader

# The published schedule peaks at 6e-3 for these sizes, where the loss jumps: a fifth of it.
optim_wrapper = dict(optimizer=dict(lr=0.2), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(dim=dim, warmup=400)
train_cfg = dict(max_epochs=15, val_interval=5)
env_cfg = dict(torch_threads=1)
