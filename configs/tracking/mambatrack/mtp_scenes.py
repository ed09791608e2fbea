# A small motion predictor on boxes that turn, stop and cross (statescan/tracking/scenes.py), as
# tools/compare_trackers.py writes them.
_base_ = "../../_base_/motion.py"

data_root = "work_dirs/compare_trackers/scenes"
dim, steps = 64, 10
model = dict(predictor=dict(dim=dim, steps=steps))

train_dataloader = dict(batch_size=256, dataset=dict(shortest=1, jitter=0.6))
val_dataloader = dict(batch_size=256, dataset=dict(shortest=1))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=0.3), clip_grad=dict(max_norm=1.0))
param_scheduler = dict(dim=dim, warmup=300)
train_cfg = dict(max_epochs=7, val_interval=7)
env_cfg = dict(torch_threads=1)
