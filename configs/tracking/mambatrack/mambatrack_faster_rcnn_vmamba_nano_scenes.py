# Composed scenes (tools/make_scenes.py --moving) end to end: the detector of composed images,
# faster_rcnn_vmamba_nano_scenes, and the motion predictor mtp_scenes.
# They are trained by their own configs; tools/track.py brings them together.
_base_ = "../../detection/from_scratch/faster_rcnn_vmamba_nano_scenes.py"

detector = _base_.model
detector.pop("data_preprocessor")
del _base_.model
model = dict(
    type="ByteTrack",  # MMDetection's frame for a detector and a tracker
    data_preprocessor=dict(
        type="TrackDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    detector=detector,
    tracker=dict(
        type="MambaTracker",
        motion=dict(
            type="LearnedMotion",
            predictor=dict(dim=64, depth=3, steps=10),
            checkpoint="work_dirs/mtp_scenes/epoch_7.pth",
        ),
        new_score=0.6,
        patience=30,
    ),
)
del detector
