"""What a detector or segmenter has to beat: itself untrained, and answers that see no image."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from ..files import atomic_write
from .launch import build_runner, evaluate


def evaluate_untrained(config: Config, checkpoint: str | Path) -> dict[str, float]:
    """Metrics of the model of ``config`` with the weights that training starts from.

    Args:
        config: From :func:`load_config`; not changed.
        checkpoint: File to write those weights to.
    """
    model = build_runner(deepcopy(config)).model
    model.init_weights()
    buffer = io.BytesIO()
    torch.save({"state_dict": model.state_dict()}, buffer)
    atomic_write(checkpoint, buffer.getvalue())
    return evaluate(deepcopy(config), checkpoint).metrics


def mean_boxes(annotations: str | Path) -> dict[int, np.ndarray]:
    """For each category of a COCO file, its mean box (left, top, width, height)."""
    boxes: dict[int, list[list[float]]] = {}
    for entry in json.loads(Path(annotations).read_text())["annotations"]:
        if not entry["iscrowd"]:
            boxes.setdefault(entry["category_id"], []).append(entry["bbox"])
    return {category: np.mean(found, axis=0) for category, found in boxes.items()}


def constant_boxes_map(train: str | Path, val: str | Path) -> float:
    """COCO's box mAP on ``val`` of the mean boxes of ``train``, all of them on every image.

    Args:
        train: COCO file to take the boxes from.
        val: COCO file to be measured on.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(val))
        answers = [
            {"image_id": image, "category_id": category, "bbox": box.tolist(), "score": 1.0}
            for image in truth.getImgIds()
            for category, box in mean_boxes(train).items()
        ]
        evaluation = COCOeval(truth, truth.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def pixel_counts(maps: Iterable[str | Path], classes: int) -> np.ndarray:
    """(classes,) how many pixels of PNG label maps are of each class; higher numbers are void."""
    return sum(
        np.bincount(np.asarray(Image.open(path)).ravel(), minlength=classes)[:classes]
        for path in maps
    )


def constant_class_miou(
    train: Iterable[str | Path], val: Iterable[str | Path], classes: int
) -> float:
    """The mIoU on ``val``, in percent, of the class that most pixels of ``train`` have, everywhere.

    Args:
        train: PNG label maps to choose the class from.
        val: PNG label maps to be measured on.
        classes: number of classes; those that ``val`` lacks do not count.
    """
    answer = pixel_counts(train, classes).argmax()
    there = pixel_counts(val, classes)
    # The answer's union with the truth is every pixel; with the other classes it shares none.
    iou = np.where(np.arange(classes) == answer, there / there.sum(), 0)
    return 100 * float(iou[(there > 0) | (np.arange(classes) == answer)].mean())
