"""Training examples of a motion predictor: windows that slide over ground-truth tracks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .boxes import to_centers
from .mot_files import Boxes
from .predictor import ChangeUnit


class Windows(NamedTuple):
    """m examples: what a `MotionPredictor` sees and should say."""

    changes: np.ndarray  # (m, q, 4), the latest last
    count: np.ndarray  # (m,) how many of them there are
    target: np.ndarray  # (m, 4) the next change


def tracks(frames: Mapping[int, Boxes]) -> list[np.ndarray]:
    """Every target's boxes (t, 4), centres and sizes, one array for each run of frames on end."""
    by_id: dict[int, list[tuple[int, np.ndarray]]] = {}
    for frame in sorted(frames):
        for i, box in zip(frames[frame].ids, to_centers(frames[frame].boxes), strict=True):
            by_id.setdefault(int(i), []).append((frame, box))
    runs = []
    for seen in by_id.values():
        numbers = np.array([frame for frame, _ in seen])
        boxes = np.stack([box for _, box in seen])
        runs += np.split(boxes, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return runs


def windows(
    runs: Sequence[np.ndarray],
    steps: int,
    *,
    shortest: int = 1,
    unit: ChangeUnit = ChangeUnit(),  # noqa: B008 -- frozen
) -> Windows:
    """All windows over runs of boxes, each array (t, 4) of centres and sizes.

    Args:
        runs: from `tracks`.
        steps: changes that the predictor looks at, q.
        shortest: least number of changes in a window. The paper's start when there are q; shorter
            ones are what a tracker asks about in a target's first frames.
        unit: what changes are measured in.

    Raises:
        ValueError: no run is long enough.
    """
    changes, count, target = [], [], []
    for boxes in runs:
        steps_of_run = np.diff(boxes, axis=0) / unit(boxes[:-1])
        for end in range(shortest, len(steps_of_run)):
            known = steps_of_run[max(0, end - steps) : end]
            changes.append(np.pad(known, ((steps - len(known), 0), (0, 0))))
            count.append(len(known))
            target.append(steps_of_run[end])
    if not target:
        longest = max((len(boxes) for boxes in runs), default=0)
        raise ValueError(
            f"the longest of {len(runs)} tracks has {longest} frames on end, "
            f"expected at least {shortest + 2}"
        )
    return Windows(
        np.stack(changes).astype(np.float32),
        np.array(count, np.int64),
        np.stack(target).astype(np.float32),
    )
