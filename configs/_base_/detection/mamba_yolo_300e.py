# Mamba-YOLO on COCO from scratch for 300 epochs in batches of 512 images of 640 pixels, by the
# settings that its authors published and, where they name none, those of the YOLOv8 they build on.
_base_ = [
    "mamba_yolo.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["statescan.mm", "statescan.mm.models.mamba_yolo"])
runner_type = "StateScanRunner"
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
epochs = 300
without_mosaic = 10  # last epochs
size = (640, 640)
grey = (114, 114, 114)

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
letterbox = [
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="Pad", size=size, pad_val=dict(img=grey)),
]
affine = dict(
    type="RandomAffine",
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    max_translate_ratio=0.1,
    scaling_ratio_range=(0.5, 1.5),
    border_val=grey,
)
finish = [
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type="PackDetInputs"),
]
train_pipeline = [
    *load,
    dict(type="CachedMosaic", img_scale=size, pad_val=114.0),
    # The first images, before the cache is full, are no mosaics and get a mosaic's size.
    dict(type="Resize", scale=(1280, 1280), keep_ratio=True),
    dict(type="Pad", size=(1280, 1280), pad_val=dict(img=grey)),
    dict(**affine, border=(-320, -320)),
    *finish,
]
last_pipeline = [*load, *letterbox, affine, *finish]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    *letterbox,
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=64,  # on each of 8 GPUs
    num_workers=8,
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False)),
)
val_dataloader = dict(batch_size=32, num_workers=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    # The authors' trainer multiplies the published decay of 5e-4 by the batch size over 64.
    optimizer=dict(
        type="SGD", lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4 * 512 / 64
    ),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=3, convert_to_iter_based=True),
    dict(type="LinearMomentum", start_factor=0.8 / 0.937, end=3, convert_to_iter_based=True),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=0.01,
        begin=3,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(enable=False, base_batch_size=512)
custom_hooks = [
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=1e-4,  # one minus the decay, after a ramp over 2000 steps
        gamma=2000,
        update_buffers=True,
        priority=49,
    ),
    dict(
        type="PipelineSwitchHook",
        switch_epoch=epochs - without_mosaic,
        switch_pipeline=last_pipeline,
    ),
]
