# Composed scenes (tools/make_scenes.py, 128x128, six categories): the detector of the blood cells,
# with finer anchors and fewer regions.
_base_ = "faster_rcnn_bccd.py"
data_root = "work_dirs/scenes"
epochs = 10
classes = ("bird", "mammal", "fruit", "flower", "road sign", "vehicle")

dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        **dataset,
        ann_file="annotations/train.json",
        data_prefix=dict(img="images/train"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(
        **dataset,
        ann_file="annotations/val.json",
        data_prefix=dict(img="images/val"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale_factor=1.0, keep_ratio=True),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f"{data_root}/annotations/val.json", classwise=False)
test_evaluator = val_evaluator

model = dict(
    neck=dict(out_channels=64, num_outs=4),
    rpn_head=dict(  # anchors of 16 to 128 pixels
        in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, num_classes=len(classes)),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=32))
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, end=50),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, end=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=1)
