# Blood cells (BCCD: 205 training and 87 validation images of 640x480) at 256 pixels, for detectors
# without anchors from scratch on one CPU core: mosaics but in the last epochs, EMA.
_base_ = "../runtime.py"
default_scope = "mmdet"
runner_type = "StateScanRunner"
env_cfg = dict(torch_threads=1)
data_root = "data/bccd"
epochs = 30
without_mosaic = 10  # last epochs
size = (256, 256)
mosaic = (512, 512)
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
    dict(type="RandomFlip", prob=0.75, direction=["horizontal", "vertical", "diagonal"]),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type="PackDetInputs"),
]
train_pipeline = [
    *load,
    dict(type="CachedMosaic", img_scale=size, pad_val=114.0),
    # The first images, before the cache is full, are no mosaics and get a mosaic's size.
    dict(type="Resize", scale=mosaic, keep_ratio=True),
    dict(type="Pad", size=mosaic, pad_val=dict(img=grey)),
    dict(**affine, border=(-128, -128)),
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
loader = dict(num_workers=0, batch_size=8)
dataset = dict(
    type="CocoDataset",
    data_root=data_root,
    metainfo=dict(classes=("RBC", "WBC", "Platelets")),
    data_prefix=dict(img="images"),
)
train_dataloader = dict(
    **loader,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(**dataset, ann_file="instances_train.json", pipeline=train_pipeline),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**dataset, ann_file="instances_val.json", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric", ann_file=f"{data_root}/instances_val.json", metric="bbox", classwise=True
)
test_evaluator = val_evaluator

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        begin=1,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=3))
custom_hooks = [
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=0.005,
        gamma=200,
        update_buffers=True,
        priority=49,
    ),
    dict(
        type="PipelineSwitchHook",
        switch_epoch=epochs - without_mosaic,
        switch_pipeline=last_pipeline,
    ),
]
