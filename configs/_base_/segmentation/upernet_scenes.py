# Composed scenes (tools/make_scenes.py, 128x128, six categories and the background): the
# segmenter of the street scenes.
_base_ = "upernet_camvid.py"
custom_imports = dict(_delete_=True, imports=["statescan.mm"])
data_root = "work_dirs/scenes"
epochs = 6
classes = ("background", "bird", "mammal", "fruit", "flower", "road sign", "vehicle")

dataset = dict(
    _delete_=True, type="BaseSegDataset", data_root=data_root, metainfo=dict(classes=classes)
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/train", seg_map_path="labels/train"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/val", seg_map_path="labels/val"),
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    decode_head=dict(num_classes=len(classes)),
    auxiliary_head=dict(num_classes=len(classes)),
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
train_cfg = dict(max_epochs=epochs, val_interval=1)
