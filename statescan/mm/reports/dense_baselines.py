"""What a detector or segmenter has to beat: itself untrained, and answers that see no image."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import TRANSFORMS

from ...files import atomic_write
from ..inference.predictor import in_scope
from ..training.launch import build_runner, evaluate
from .samples import build_dataset


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


def constant_class(config: Config) -> dict[str, float]:
    """Metrics of a segmenter that says of every pixel what most training pixels are.

    Args:
        config: From :func:`load_config`; the metrics are those of its test data.
    """
    test = build_dataset(config, "test")
    classes = len(test.metainfo["classes"])
    answer = sum(
        np.bincount(labels.ravel(), minlength=classes)[:classes]  # what is beyond is void
        for labels in label_maps(config, build_dataset(config, "train"))
    ).argmax()
    with in_scope(config):
        evaluator = Evaluator(config.test_evaluator)
    evaluator.dataset_meta = test.metainfo
    for labels in label_maps(config, test):
        truth = torch.from_numpy(labels.astype(np.int64))[None]
        sample = {"gt_sem_seg": truth, "pred_sem_seg": torch.full_like(truth, answer)}
        evaluator.process([{name: {"data": data} for name, data in sample.items()}])
    return {name: float(value) for name, value in evaluator.evaluate(len(test)).items()}


def label_maps(config: Config, dataset: BaseDataset) -> Iterator[np.ndarray]:
    """(H, W) class numbers of each image of a segmenter's dataset, at their full size."""
    with in_scope(config):
        load = TRANSFORMS.build({"type": "LoadAnnotations"})
    for index in range(len(dataset)):
        yield load(dataset.get_data_info(index))["gt_seg_map"]
