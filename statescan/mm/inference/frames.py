"""Frames of a video file or of a folder of images, numbered, whether they can be read or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..errors import InputError
from .media import read_image

USUAL_RATE = 25.0  # frames a second, where nothing says it


class Frames:
    """The frames of a video, by number from 1: images (H, W, 3), BGR, and None for bad ones.

    Those that cannot be read are counted in `unreadable`. In a folder they keep their place; of a
    video OpenCV leaves them out, so that they are missing at its end.

    Args:
        path: Video file, or folder whose images, by name, are the frames.

    Raises:
        InputError: There is nothing there, or it cannot be opened.
    """

    def __init__(self, path: str | Path):
        self.path, self.unreadable, self.rate = Path(path), 0, USUAL_RATE
        self.files: list[Path] = []
        if not self.path.exists():
            raise InputError(f"there is no video {str(path)!r}")
        if self.path.is_dir():
            self.files = sorted(p for p in self.path.iterdir() if cv2.haveImageWriter(p.name))
            self.count = len(self.files)
        else:
            capture = cv2.VideoCapture(str(path))
            self.rate = capture.get(cv2.CAP_PROP_FPS) or USUAL_RATE
            self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            capture.release()
        if not self.count:
            raise InputError(f"{str(path)!r} is neither a video nor a folder of images")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, np.ndarray | None]]:
        self.unreadable = 0
        pictures = map(_read, self.files) if self.files else self._decode()
        for number, picture in enumerate(pictures, start=1):
            self.unreadable += picture is None
            yield number, picture

    def _decode(self) -> Iterator[np.ndarray | None]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            for _ in range(self.count):
                yield capture.read()[1]
        finally:
            capture.release()


def _read(path: Path) -> np.ndarray | None:
    try:
        return read_image(path)
    except InputError:
        return None
