"""Validation images of composed scenes with what is true and what was predicted drawn in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .trainings import COLORS, draw_classes, draw_instances

COLUMNS = 6
THRESHOLD = 0.5  # of the scores of boxes that are drawn

Rows = dict[str, list[np.ndarray]]


def draw_boxes(data: Path, predictions: Path) -> Rows:
    """Rows of images with boxes, a colour a category.

    Args:
        data: Folder of composed scenes.
        predictions: Start of the name of COCO's result file, ``PREFIX.bbox.json``.
    """
    truth = json.loads((data / "annotations/val.json").read_text())
    found = json.loads(predictions.with_name(f"{predictions.name}.bbox.json").read_text())
    found = [entry for entry in found if entry["score"] > THRESHOLD]
    rows: Rows = {"truth": [], f"prediction, score over {THRESHOLD}": []}
    for entry in truth["images"][:COLUMNS]:
        image = _read(data / "images/val" / entry["file_name"])
        for row, boxes in zip(rows.values(), (truth["annotations"], found), strict=True):
            row.append(_with_boxes(image, [b for b in boxes if b["image_id"] == entry["id"]]))
    return rows


def _with_boxes(image: np.ndarray, entries: Sequence[dict]) -> np.ndarray:
    boxes = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return draw_instances(image, boxes, [entry["category_id"] - 1 for entry in entries])


def draw_maps(data: Path, predictions: Path) -> Rows:
    """Rows of images under the colours of their categories; the background stays bare.

    Args:
        data: Folder of composed scenes.
        predictions: Folder of label maps named as the images.
    """
    rows: Rows = {"truth": [], "prediction": []}
    for path in sorted((data / "images/val").glob("*.jpg"))[:COLUMNS]:
        for row, folder in zip(rows.values(), (data / "labels/val", predictions), strict=True):
            labels = np.array(Image.open(folder / f"{path.stem}.png"))
            row.append(draw_classes(_read(path), labels - 1, COLORS))  # 0 becomes 255, no class
    return rows


def _read(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))
