# Cell nuclei (DSB2018, 315 training and 65 validation images of 256 to 320 pixels): Mask R-CNN with
# a pyramid and heads of a quarter of the usual width, for one CPU core. Annotations come from
# tools/convert_dsb2018.py.
_base_ = ["../from_scratch.py", "mmdet::_base_/models/mask-rcnn_r50_fpn.py"]
default_scope = "mmdet"
data_root = "data/dsb2018"
epochs = 4
classes = ("nucleus",)

loader = dict(num_workers=0, batch_size=4)
dataset = dict(
    type="CocoDataset",
    data_root=data_root,
    metainfo=dict(classes=classes),
    data_prefix=dict(img="images"),
)
train_dataloader = dict(
    **loader,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **dataset,
        ann_file="instances_train.json",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomResize", scale=(256, 256), ratio_range=(0.8, 1.25), keep_ratio=True),
            dict(type="RandomCrop", crop_size=(128, 128)),
            dict(type="RandomFlip", prob=0.75, direction=["horizontal", "vertical", "diagonal"]),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        ann_file="instances_val.json",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale_factor=1.0, keep_ratio=True),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric",
    ann_file=f"{data_root}/instances_val.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator

model = dict(
    backbone=dict(_delete_=True, type="StateScanBackbone"),
    neck=dict(out_channels=64),
    rpn_head=dict(  # anchors of 8 to 128 pixels
        in_channels=64, feat_channels=64, anchor_generator=dict(scales=[2])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=1),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=250), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
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
