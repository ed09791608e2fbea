# MambaTrack's motion predictor as published: 512 channels, 3 blocks, batch 64, the Transformer's
# schedule. See MotionWindows in statescan/mm/training/motion.py for the data.
_base_ = "runtime.py"

dim, steps = 512, 10
model = dict(type="MotionRegressor", predictor=dict(dim=dim, depth=3, steps=steps))

loader = dict(num_workers=0, batch_size=64, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    **loader,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="MotionWindows", files=["train/*/gt/gt.txt"], steps=steps, shortest=steps),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="MotionWindows", files=["val/*/gt/gt.txt"], steps=steps, shortest=steps),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="MotionMetric")
test_evaluator = val_evaluator

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=1.0, betas=(0.9, 0.98), eps=1e-8),
)
param_scheduler = dict(type="InverseSqrtLR", by_epoch=False, dim=dim, warmup=4000)
train_cfg = dict(max_epochs=50)
