# make demo: sound or defective solar cells, from scratch on two CPU cores (tools/demo_classify.py).
_base_ = "../../_base_/runtime.py"

size = 96
statistics = dict(mean=(0.6,), std=(0.16,))
loader = dict(num_workers=0, batch_size=16, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    **loader,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="SolarCells",
        split="train",
        size=size,
        transform=dict(
            **statistics,
            input_size=size,
            is_training=True,
            scale=(0.9, 1.0),
            vflip=0.5,
            quarter_turns=True,
            color_jitter=None,
        ),
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SolarCells",
        split="test",
        size=size,
        transform=dict(**statistics, input_size=size, crop_pct=1.0),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ClassificationMetric", names=["roc_auc", "balanced_accuracy"])
test_evaluator = val_evaluator

model = dict(
    type="ImageClassifier",
    backbone=dict(name="vmamba_nano", num_classes=2, in_chans=1, global_pool="catavgmax"),
    loss=dict(type="LabelSmoothingCrossEntropy", smoothing=0.1),
)

epochs = 36
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="TimmMuon", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=3, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        begin=3,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs, val_interval=4)
default_hooks = dict(
    ema=dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=5e-3, update_buffers=True)
)
env_cfg = dict(torch_threads=2)  # the last bits of a sum depend on the number of threads
