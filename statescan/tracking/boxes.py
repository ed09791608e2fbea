"""Boxes as arrays: corners (x1, y1, x2, y2) outside, centre and size (cx, cy, w, h) inside."""

import numpy as np


def to_centers(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) corners → (n, 4) centres and sizes."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) centres and sizes → (n, 4) corners."""
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([center - half, center + half], axis=1)


def have_area(boxes: np.ndarray) -> np.ndarray:
    """(n,) whether corners (n, 4) are finite and span an area."""
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):
        return finite & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of corners a (n, 4) and b (m, 4), each with an area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared)
