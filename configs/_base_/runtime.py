# What every training shares: seeds, hooks, logs.
custom_imports = dict(imports=["statescan.mm"])
randomness = dict(seed=0)
default_hooks = dict(
    seed=dict(type="EpochSeedHook"),
    history=dict(type="HistoryHook"),
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="AtomicCheckpointHook"),
    progress=dict(type="ProgressHook"),
)
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
train_cfg = dict(by_epoch=True)
val_cfg = dict()
test_cfg = dict()
