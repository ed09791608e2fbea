# What every training of ours shares: seeds, hooks, logs. StateScanRunner adds hooks for seeds,
# history and progress.
custom_imports = dict(imports=["statescan.mm"])
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="AtomicCheckpointHook"),
)
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
train_cfg = dict(by_epoch=True)
val_cfg = dict()
test_cfg = dict()
