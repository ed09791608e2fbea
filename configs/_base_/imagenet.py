# ImageNet-1k at 224 pixels for 300 epochs: the recipe of Swin, ConvNeXt and VMamba. Written for a
# total batch of 1024, say 8 processes of 128; other batches scale the learning rate linearly.
_base_ = "runtime.py"

data_root = "data/imagenet"  # with folders train and val, in each a folder a class

loader = dict(num_workers=8, pin_memory=True, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    **loader,
    batch_size=128,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFolder",
        split="train",
        transform=dict(
            input_size=224,
            is_training=True,
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
        ),
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=128,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolder",
        split="val",
        transform=dict(input_size=224, interpolation="bicubic", crop_pct=0.875),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ClassificationMetric", names=["top1", "top5"])
test_evaluator = val_evaluator

model = dict(
    type="ImageClassifier",
    backbone=dict(num_classes=1000),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1),
    loss=dict(type="SoftTargetCrossEntropy"),
)

optim_wrapper = dict(
    type="Bf16OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=1024)
param_scheduler = [  # from 1e-6 up to 1e-3 in 20 epochs, then down to 1e-5
    dict(type="LinearLR", start_factor=1e-3, end=20, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR", eta_min_ratio=0.01, begin=20, end=300, convert_to_iter_based=True
    ),
]
train_cfg = dict(max_epochs=300, val_interval=5)
default_hooks = dict(
    ema=dict(type="EMAHook", momentum=1e-4, update_buffers=True),  # decay 0.9999
    checkpoint=dict(keep=3),
)
