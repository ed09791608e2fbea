# On SportsMOT's validation set. The authors take the YOLOX-X that comes with it, whose file is in
# YOLOX's own form: train it from MMDetection's weights here, or name a converted file by
# model.detector.init_cfg.checkpoint. Annotations are from MMDetection's mot2coco converter.
# TrackEval has no name for SportsMOT: like DanceTrack it has one class and no distractors.
_base_ = "mambatrack_yolox_x_dancetrack.py"

data_root = "data/sportsmot/"
model = dict(
    tracker=dict(motion=dict(checkpoint="work_dirs/mtp_sportsmot/epoch_50.pth")),
)
train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
