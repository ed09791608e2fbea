"""The tracker where MMDetection's tracking models expect one."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData

from ...tracking import (
    ChangeUnit,
    ConstantVelocity,
    Kalman,
    LearnedMotion,
    MambaTracker,
    Motion,
    MotionPredictor,
    Stationary,
)
from ..checkpoints.files import check_fits, read_training_checkpoint

PREFIX = "predictor."  # of the weights that `MotionRegressor` trains

for _motion in (ConstantVelocity, Kalman, Stationary):
    TASK_UTILS.register_module(module=_motion)


@TASK_UTILS.register_module(name="LearnedMotion")
def learned_motion(
    predictor: dict, checkpoint: str | Path | None = None, unit: dict | None = None, **kwargs
) -> LearnedMotion:
    """A `LearnedMotion` from a config.

    Args:
        predictor: Arguments of `statescan.tracking.MotionPredictor`.
        checkpoint: File that ``tools/train.py`` wrote; None for random weights.
        unit: Arguments of `statescan.tracking.ChangeUnit`, as in training.
        **kwargs: Further arguments of `statescan.tracking.LearnedMotion`.

    Raises:
        InputError: The checkpoint is missing, damaged or of another predictor.
    """
    model = MotionPredictor(**predictor)
    if checkpoint is not None:
        weights = read_training_checkpoint(checkpoint)["state_dict"]
        own = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
        check_fits(checkpoint, own, model)
        model.load_state_dict(own)
    return LearnedMotion(model, unit=ChangeUnit(**unit or {}), **kwargs)


@MODELS.register_module(name="MambaTracker")
class DetectionTracker:
    """`statescan.tracking.MambaTracker` for MMDetection's ByteTrack, OCSORT and their like.

    It stands where ByteTracker or OCSORTTracker does: ``tracker=dict(type="MambaTracker",
    motion=dict(type="LearnedMotion", predictor=dict(), checkpoint="epoch_50.pth"))``.

    Args:
        motion: A motion's config: LearnedMotion, Kalman, ConstantVelocity or Stationary.
        **kwargs: Further arguments of `statescan.tracking.MambaTracker`.
    """

    def __init__(self, motion: dict | Motion, **kwargs):
        motion = TASK_UTILS.build(motion) if isinstance(motion, dict) else motion
        self.tracker = MambaTracker(motion, **kwargs)

    def reset(self) -> None:
        """Start a new video."""
        self.tracker.reset()

    def track(self, data_sample, **kwargs) -> InstanceData:
        """Follow the targets of one frame.

        Args:
            data_sample: MMDetection's DetDataSample with ``pred_instances``; its ``frame_id``,
                where 0 starts a new video.
            **kwargs: What else MMDetection hands to trackers, such as the image; not used.

        Returns:
            The detections that show a target, with ``instances_id`` from 0.
        """
        if data_sample.metainfo.get("frame_id") == 0:
            self.reset()
        found = data_sample.pred_instances
        arrays = (found[name].detach().cpu().numpy() for name in ("bboxes", "scores", "labels"))
        ids = torch.from_numpy(self.tracker.update(*arrays)).to(found.labels.device)
        tracked = found[ids > 0]
        tracked.instances_id = ids[ids > 0] - 1
        return tracked
