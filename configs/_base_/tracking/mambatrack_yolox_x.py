# MambaTrack as published on MOT17: ByteTrack's YOLOX-X at 1440x800 (CrowdHuman and half of MOT17),
# and the learned motion of `tools/train.py mtp_mot17`.
_base_ = (
    "mmdet::bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py"
)
custom_imports = dict(imports=["statescan.mm"])
weights = (
    "https://download.openmmlab.com/mmtracking/mot/bytetrack/bytetrack_yolox_x/"
    "bytetrack_yolox_x_crowdhuman_mot17-private-half_20211218_205500-1985c9f0.pth"
)
model = dict(
    detector=dict(init_cfg=dict(checkpoint=weights, prefix="detector.")),
    tracker=dict(
        _delete_=True,
        type="MambaTracker",
        motion=dict(
            type="LearnedMotion",
            predictor=dict(dim=512, depth=3, steps=10),
            checkpoint="work_dirs/mtp_mot17/epoch_50.pth",
        ),
        new_score=0.6,
        patience=30,
    ),
)
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
