# Pedestrians of PETS09-S2L1 at two thirds of their size: trained on the first 400 frames, tested on
# the other 395, from scratch. RetinaNet with two levels, anchors for upright boxes of 16 to 96
# pixels, a thin pyramid and heads. The data are what this writes:
#   python tools/mot_to_coco.py vtest.avi gt.txt data/pets09_coco --split train 1 400 \
#       --split test 401 795
_base_ = ["../from_scratch.py", "mmdet::_base_/models/retinanet_r50_fpn.py"]
default_scope = "mmdet"
data_root = "data/pets09_coco"
epochs, size = 6, (512, 384)

loader = dict(num_workers=0, batch_size=2)
dataset = dict(
    type="CocoDataset",
    data_root=data_root,
    data_prefix=dict(img="images"),
    metainfo=dict(classes=("pedestrian",)),
)
train_dataloader = dict(
    **loader,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **dataset,
        ann_file="instances_train.json",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", scale=size),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        ann_file="instances_test.json",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=size),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file=f"{data_root}/instances_test.json", metric="bbox")
test_evaluator = val_evaluator

norm = dict(type="GN", num_groups=16)
model = dict(
    backbone=dict(_delete_=True, type="StateScanBackbone"),
    neck=dict(out_channels=64, num_outs=2, add_extra_convs=False, norm_cfg=norm),
    bbox_head=dict(
        num_classes=1,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm,
        anchor_generator=dict(octave_base_scale=3, ratios=[2.5], strides=[8, 16]),
    ),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
