"""MOTChallenge text files: frame, id, left, top, width, height, confidence, and three more."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import atomic_write


class Boxes(NamedTuple):
    """What a file says of one frame."""

    ids: np.ndarray  # (n,), -1 in files of detections
    boxes: np.ndarray  # (n, 4) corners in pixels
    scores: np.ndarray  # (n,)


NO_BOXES = Boxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))


def read(path: str | Path) -> dict[int, Boxes]:
    """Frames of a MOTChallenge file by number, from 1; ground truth rows marked 0 are left out.

    Raises:
        ValueError: for a row that is not numbers, naming its line.
        FileNotFoundError: there is no such file.
    """
    rows = np.array([row for row in _rows(path) if row[6] != 0], float).reshape(-1, 7)
    frames = {}
    for frame in np.unique(rows[:, 0]):
        chosen = rows[rows[:, 0] == frame]
        corners = np.concatenate([chosen[:, 2:4], chosen[:, 2:4] + chosen[:, 4:6]], axis=1)
        frames[int(frame)] = Boxes(chosen[:, 1].astype(np.int64), corners, chosen[:, 6])
    return frames


def _rows(path: str | Path) -> Iterator[list[float]]:
    for number, line in enumerate(Path(path).read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.replace(" ", ",").split(",") if value]
        except ValueError:
            values = []
        if len(values) < 7:
            raise ValueError(
                f"{path}, line {number}, is {line[:60]!r}, expected at least frame, id, left, top, "
                "width, height and confidence"
            )
        yield values[:7]


def lines(frames: Iterable[tuple[int, Boxes]], label: int = -1) -> Iterator[str]:
    """The lines of a file; label is the class of all boxes, which ground truth needs."""
    for frame, (ids, boxes, scores) in frames:
        for i, (x1, y1, x2, y2), score in zip(ids, boxes, scores, strict=True):
            size = f"{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f}"
            yield f"{frame},{i},{size},{score:.4f},{label},-1,-1\n"


def write(path: str | Path, frames: Iterable[tuple[int, Boxes]], label: int = -1) -> None:
    """Write a file; it appears under its name only when it is whole."""
    atomic_write(path, "".join(lines(frames, label)).encode())
