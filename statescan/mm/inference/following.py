"""Trackers by name, detections from a file or a detector, and the tracks of a whole video."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.utils import import_modules_from_strings

from ...errors import nearest
from ...tracking import mot_files
from ...tracking.mot_files import NO_BOXES, Boxes
from ..errors import InputError
from .predictor import Predictor

Detect = Callable[[int, np.ndarray | None], InstanceData]

MOTIONS = {"kalman": "Kalman", "constant_velocity": "ConstantVelocity", "stationary": "Stationary"}
TRACKERS = {
    **{name: dict(type="MambaTracker", motion=dict(type=kind)) for name, kind in MOTIONS.items()},
    # SORT: a target may be unseen for one frame
    "sort": dict(type="MambaTracker", motion=dict(type="Kalman"), patience=2),
    # MMDetection's, as in its configs of the published systems
    "bytetrack": dict(
        type="mmdet.ByteTracker",
        motion=dict(type="mmdet.KalmanFilter"),
        obj_score_thrs=dict(high=0.6, low=0.1),
        init_track_thr=0.7,
        weight_iou_with_det_scores=True,
        match_iou_thrs=dict(high=0.1, low=0.5, tentative=0.3),
        num_frames_retain=30,
    ),
    "ocsort": dict(
        type="mmdet.OCSORTTracker",
        motion=dict(type="mmdet.KalmanFilter"),
        obj_score_thr=0.3,
        init_track_thr=0.7,
        weight_iou_with_det_scores=True,
        match_iou_thr=0.3,
        num_tentatives=3,
        vel_consist_weight=0.2,
        vel_delta_t=3,
        num_frames_retain=30,
    ),
}


def build_tracker(config: str | dict, options: dict | None = None):
    """A tracker in MMDetection's sense: an object with ``track(data_sample)``.

    Args:
        config: A name in `TRACKERS`, or a tracker's config.
        options: Overrides by dotted key, such as ``{"motion.checkpoint": path}``.

    Raises:
        InputError: There is no such name.
    """
    if isinstance(config, str):
        if config not in TRACKERS:
            raise InputError(f"there is no tracker {config!r}: {nearest(config, TRACKERS)}")
        config = TRACKERS[config]
    whole = Config({"tracker": copy.deepcopy(dict(config))})
    whole.merge_from_dict({f"tracker.{key}": value for key, value in (options or {}).items()})
    config = whole.tracker
    if config["type"].startswith("mmdet."):
        import_modules_from_strings(["mmdet.models"])  # seconds, for those that need it alone
    return MODELS.build(config)


def tracker_config(config: Config) -> dict:
    """The tracker in a config: of a whole model, or ``tracker`` itself.

    Raises:
        InputError: It has none.
    """
    found = config.get("model", config).get("tracker")
    if found is None:
        raise InputError(f"{config.filename} has neither model.tracker nor tracker")
    return found


def instances(boxes: np.ndarray, scores: np.ndarray) -> InstanceData:
    """Detections of one class: corners (n, 4) and scores (n,)."""
    return InstanceData(
        bboxes=torch.as_tensor(boxes, dtype=torch.float32),
        scores=torch.as_tensor(scores, dtype=torch.float32),
        labels=torch.zeros(len(boxes), dtype=torch.long),
    )


def from_frames(frames: dict[int, Boxes]) -> Detect:
    """Detections that are known already, such as those of `mot_files.read`."""

    def detect(number: int, picture: np.ndarray | None) -> InstanceData:
        _, boxes, scores = frames.get(number, NO_BOXES)
        return instances(boxes, scores)

    return detect


def from_file(path: str | Path) -> Detect:
    """Detections of a MOTChallenge file.

    Raises:
        InputError: It is not there, or not of that form.
    """
    try:
        return from_frames(mot_files.read(path))
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error


def from_detector(predictor: Predictor, labels: Sequence[int] | None = None) -> Detect:
    """What a detector finds in a picture; nothing in frames that cannot be read.

    Args:
        predictor: A detector of MMDetection's.
        labels: Class numbers to follow; None for all.
    """

    def detect(number: int, picture: np.ndarray | None) -> InstanceData:
        if picture is None:
            return instances(NO_BOXES.boxes, NO_BOXES.scores)
        found = predictor(picture).pred_instances
        found = InstanceData(bboxes=found.bboxes, scores=found.scores, labels=found.labels)
        return found if labels is None else found[torch.isin(found.labels, torch.tensor(labels))]

    return detect


class Follower:
    """Follows targets through one video.

    Args:
        tracker: From `build_tracker`.
    """

    def __init__(self, tracker):
        self.tracker, self.frame = tracker, 0

    def __call__(self, found: InstanceData) -> InstanceData:
        """Those of the next frame's detections that show a target, with ``instances_id`` from 0."""
        sample = BaseDataElement(metainfo=dict(frame_id=self.frame), pred_instances=found)
        self.frame += 1
        return self.tracker.track(sample)


def as_boxes(tracked: InstanceData) -> Boxes:
    """One frame of a MOTChallenge file: ids are from 1 there, and -1 where there are none."""
    boxes, scores = (tracked[name].cpu().numpy() for name in ("bboxes", "scores"))
    ids = tracked.instances_id.cpu().numpy() + 1 if "instances_id" in tracked else None
    return Boxes(np.full(len(boxes), -1) if ids is None else ids, boxes, scores)


def follow(tracker, detections: dict[int, Boxes], numbers: Iterable[int]) -> dict[int, Boxes]:
    """Tracks over frames of detections that are known.

    Args:
        tracker: From `build_tracker`.
        detections: Frames by number.
        numbers: The frames to go through, in order.
    """
    detect, step = from_frames(detections), Follower(tracker)
    return {number: as_boxes(step(detect(number, None))) for number in numbers}
