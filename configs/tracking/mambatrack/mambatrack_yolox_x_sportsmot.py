# On SportsMOT's validation set. The authors take the YOLOX-X that comes with it, whose file is in
# YOLOX's own form: train it from MMDetection's weights here, or name a converted file by
# model.detector.init_cfg.checkpoint. Annotations are from MMDetection's mot2coco converter.
_base_ = "../../_base_/tracking/mambatrack_yolox_x.py"

data_root = "data/sportsmot/"
model = dict(
    tracker=dict(motion=dict(checkpoint="work_dirs/mtp_sportsmot/epoch_50.pth")),
)
classes = ("pedestrian",)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="CocoDataset",
            data_root=data_root,
            ann_file="annotations/train_cocoformat.json",
            data_prefix=dict(img="train"),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            metainfo=dict(classes=classes),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations", with_bbox=True),
            ],
        )
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/val_cocoformat.json",
        data_prefix=dict(img_path="val"),
    )
)
test_dataloader = val_dataloader
# TrackEval has no name for SportsMOT: like DanceTrack it has one class and no distractors.
val_evaluator = dict(benchmark="DanceTrack", postprocess_tracklet_cfg=[])  # no interpolation
test_evaluator = val_evaluator
