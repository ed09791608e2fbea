# CIFAR-10 at 32 pixels from two npz files of JPEGs; see Cifar10 in
# statescan/mm/data/classification.py.
_base_ = "runtime.py"

data_root = "data/cifar10"
statistics = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

loader = dict(num_workers=2, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    **loader,
    batch_size=128,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="Cifar10",
        split="train",
        transform=dict(
            **statistics,
            input_size=32,
            is_training=True,
            scale=(0.6, 1.0),
            color_jitter=0.2,
            re_prob=0.1,
        ),
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=250,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="Cifar10",
        split="test",
        transform=dict(**statistics, input_size=32, crop_pct=1.0),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ClassificationMetric", names=["top1", "top5"])
test_evaluator = val_evaluator

model = dict(
    type="ImageClassifier",
    backbone=dict(num_classes=10),
    loss=dict(type="LabelSmoothingCrossEntropy", smoothing=0.1),
)

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=128)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, begin=3, end=60, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=60)
default_hooks = dict(
    ema=dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=1e-3, update_buffers=True)
)
