"""Validation images of composed scenes with what is true and what was predicted drawn in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image

from ..inference.media import read_image
from .drawing import SmallPainter

COLORS = (  # RGB, of as many categories as the scenes of Tux Paint's stamps have
    *((230, 85, 60), (45, 120, 230), (250, 200, 40)),
    *((60, 180, 90), (170, 90, 200), (60, 200, 210)),
)
COLUMNS = 6
THRESHOLD = 0.5  # of the scores of boxes that are drawn

Rows = dict[str, list[np.ndarray]]


def draw_boxes(data: Path, predictions: Path) -> Rows:
    """Rows of images, BGR, with boxes, a colour a category.

    Args:
        data: Folder of composed scenes.
        predictions: Start of the name of COCO's result file, ``PREFIX.bbox.json``.
    """
    truth = _annotations(data)
    found = json.loads(predictions.with_name(f"{predictions.name}.bbox.json").read_text())
    found = [entry for entry in found if entry["score"] > THRESHOLD]
    painter = _painter(truth)
    rows: Rows = {"truth": [], f"prediction, score over {THRESHOLD}": []}
    for entry in truth["images"][:COLUMNS]:
        image = read_image(data / "images/val" / entry["file_name"])
        for row, boxes in zip(rows.values(), (truth["annotations"], found), strict=True):
            own = [box for box in boxes if box["image_id"] == entry["id"]]
            row.append(painter.instances(image, _detections(own)))
    return rows


def draw_maps(data: Path, predictions: Path) -> Rows:
    """Rows of images, BGR, under the colours of their categories; the background stays bare.

    Args:
        data: Folder of composed scenes.
        predictions: Folder of label maps named as the images.
    """
    painter = _painter(_annotations(data))
    rows: Rows = {"truth": [], "prediction": []}
    for path in sorted((data / "images/val").glob("*.jpg"))[:COLUMNS]:
        for row, folder in zip(rows.values(), (data / "labels/val", predictions), strict=True):
            labels = np.array(Image.open(folder / f"{path.stem}.png"))
            row.append(painter.label_map(read_image(path), labels - 1))  # 0 becomes 255, no class
    return rows


def _annotations(data: Path) -> dict:
    return json.loads((data / "annotations/val.json").read_text())


def _painter(annotations: dict) -> SmallPainter:
    return SmallPainter([category["name"] for category in annotations["categories"]], COLORS)


def _detections(entries: Sequence[dict]) -> sv.Detections:
    """COCO's boxes x, y, width, height of categories that count from 1."""
    boxes = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = np.array([entry["category_id"] - 1 for entry in entries], int)
    return sv.Detections(boxes, class_id=classes)
