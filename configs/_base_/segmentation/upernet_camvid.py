# Street scenes (CamVid, 367 training and 101 validation images of 480x360) at half their size:
# UPerNet with heads of an eighth of the usual width, for one CPU core.
_base_ = ["../from_scratch.py", "mmseg::_base_/models/upernet_r50.py"]
custom_imports = dict(imports=["statescan.mm", "statescan.mm.data.camvid"])
default_scope = "mmseg"
data_root = "data/camvid"
epochs = 12
size = (240, 180)

loader = dict(num_workers=0, batch_size=4)
train_dataloader = dict(
    **loader,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CamVid",
        data_root=data_root,
        data_prefix=dict(img_path="train", seg_map_path="trainannot"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomResize", scale=size, ratio_range=(0.8, 1.6), keep_ratio=True),
            dict(type="RandomCrop", crop_size=(144, 192), cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CamVid",
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="valannot"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=size, keep_ratio=True),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ClasswiseIoU")
test_evaluator = val_evaluator

head = dict(num_classes=11, norm_cfg=dict(type="BN"), loss_decode=dict(avg_non_ignore=True))
model = dict(
    data_preprocessor=dict(size=(144, 192)),
    pretrained=None,
    backbone=dict(_delete_=True, type="StateScanBackbone"),
    decode_head=dict(channels=64, **head),
    auxiliary_head=dict(channels=32, **head),
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
train_cfg = dict(max_epochs=epochs, val_interval=2)
