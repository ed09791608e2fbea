"""Detections as a detector would give them, made from ground truth: missed, shifted and false."""

from collections.abc import Mapping

import numpy as np

from .boxes import have_area, to_centers, to_corners
from .mot_files import Boxes

SURE, UNSURE = (0.6, 1.0), (0.3, 0.8)  # scores of true and of false detections


def dropped(frames: Mapping[int, Boxes], share: float, seed: int) -> dict[int, Boxes]:
    """Ground truth of which a share of the boxes is missing, each by chance; scores are 1."""
    rng = np.random.RandomState(seed)
    kept = {}
    for number in sorted(frames):
        ids, boxes, _ = frames[number]
        chosen = rng.rand(len(ids)) >= share
        kept[number] = Boxes(np.full(chosen.sum(), -1), boxes[chosen], np.ones(chosen.sum()))
    return kept


def detected(
    frames: Mapping[int, Boxes],
    size: tuple[int, int],
    seed: int,
    *,
    missed: float = 0.1,
    covered: float = 0.6,
    jitter: float = 0.03,
    false: float = 0.5,
) -> dict[int, Boxes]:
    """What a detector may find of ground truth.

    Args:
        frames: Ground truth by frame number.
        size: (width, height) of the image in pixels.
        seed: equal seeds give equal detections.
        missed: share of the boxes that are missed by chance.
        covered: boxes of which a larger share than this is behind one box lower in the image,
            thus nearer, are missed too.
        jitter: standard deviation of centre and size, as a share of the size.
        false: mean number of false detections in a frame.
    """
    rng = np.random.RandomState(seed)
    found = {}
    for number in sorted(frames):
        boxes = frames[number].boxes
        seen = boxes[(rng.rand(len(boxes)) >= missed) & (hidden_share(boxes) <= covered)]
        shaken = _shake(seen, jitter, rng)
        ghosts = _ghosts(rng.poisson(false), size, rng)
        scores = [rng.uniform(*SURE, len(shaken)), rng.uniform(*UNSURE, len(ghosts))]
        together = np.concatenate([shaken, ghosts])
        found[number] = Boxes(np.full(len(together), -1), together, np.concatenate(scores))
    return found


def hidden_share(boxes: np.ndarray) -> np.ndarray:
    """(n,) largest share of each box (n, 4) that one other, with a lower bottom edge, covers."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    shared = np.prod(np.clip(high - low, 0, None), axis=2) / area[:, None]
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    return np.where(nearer, shared, 0).max(axis=1, initial=0)


def _shake(boxes: np.ndarray, jitter: float, rng: np.random.RandomState) -> np.ndarray:
    centers = to_centers(boxes)
    noise = jitter * rng.randn(*centers.shape) * np.tile(centers[:, 2:], 2)
    shaken = to_corners(centers + noise)
    return shaken[have_area(shaken)]


def _ghosts(count: int, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Upright boxes anywhere, of 5 to 25 % of the image's height."""
    height = rng.uniform(0.05, 0.25, count) * size[1]
    centers = rng.rand(count, 2) * np.array(size)
    return to_corners(np.column_stack([centers, 0.5 * height, height]))
