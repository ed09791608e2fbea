"""Images, folders of images and videos: read, drawn into and written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ...files import atomic_write
from ..data.loading import decoded, naming, read_whole
from ..errors import InputError

Draw = Callable[[np.ndarray], np.ndarray]


class Written(NamedTuple):
    """``paths`` that were written, and ``problems``: a clause for each input left out."""

    paths: list[Path]
    problems: list[str]


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8, BGR, turned as its EXIF tag says.

    Raises:
        InputError: The file is missing, no image, or damaged.
    """
    with naming(path):
        data = np.frombuffer(read_whole(str(path)), np.uint8)
        return decoded(lambda: cv2.imdecode(data, cv2.IMREAD_COLOR))


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) BGR atomically, in the format of the name."""
    atomic_write(path, cv2.imencode(Path(path).suffix, image)[1].tobytes())


def redraw(source: str | Path, folder: str | Path, draw: Draw) -> Written:
    """Put an image, the images of a folder or a video through ``draw``, frame by frame.

    Args:
        source: Image, folder or video. In a folder, files that are no images are left out.
        folder: Where results are written, under the sources' names.
        draw: From (H, W, 3) BGR to what is written instead.

    Raises:
        InputError: There is nothing to read in ``source``, or results would replace it.
    """
    source, folder = Path(source), Path(folder)
    if not source.exists():
        raise InputError(f"there is no image, folder or video {str(source)!r}")
    if (source if source.is_dir() else source.parent).resolve() == folder.resolve():
        raise InputError(f"results in {str(folder)!r} would replace what they are made of")
    if source.is_dir():
        return _redraw_folder(source, folder, draw)
    if cv2.haveImageReader(str(source)):
        return Written([_write_drawn(source, draw(read_image(source)), folder)], [])
    return _redraw_video(source, folder / f"{source.stem}.mp4", draw)


def _write_drawn(source: Path, drawn: np.ndarray, folder: Path) -> Path:
    """Write under the source's name, as PNG where OpenCV does not write the source's format."""
    name = source.name if cv2.haveImageWriter(source.name) else f"{source.name}.png"
    write_image(folder / name, drawn)
    return folder / name


def _redraw_folder(source: Path, folder: Path, draw: Draw) -> Written:
    files = sorted(path for path in source.iterdir() if path.is_file())
    paths, unreadable = [], []
    for path in tqdm(files, unit="image", disable=None):
        try:
            image = read_image(path)
        except InputError:
            unreadable.append(path.name)
        else:
            paths.append(_write_drawn(path, draw(image), folder))
    if not paths:
        raise InputError(f"folder {str(source)!r} has no image that can be read")
    told = f"{len(unreadable)} of {len(files)} files cannot be read: {', '.join(unreadable)}"
    return Written(paths, [told] if unreadable else [])


def _redraw_video(source: Path, target: Path, draw: Draw) -> Written:
    with _open_video(source) as capture:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        frames = tqdm(_frames(capture), total=max(announced, 0), unit="frame", disable=None)
        count = write_video(target, rate, map(draw, frames))
    if not count:
        raise InputError(f"video {str(source)!r} has no frame that can be read")
    told = f"{announced - count} of {announced} frames cannot be read"
    return Written([target], [told] if count < announced else [])


@contextmanager
def _open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(f"{str(path)!r} cannot be read, as an image or as a video")
        yield capture
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """(H, W, 3) BGR frames, up to the end or the first that cannot be read."""
    while True:
        good, frame = capture.read()
        if not good:
            return
        yield frame


def write_video(path: Path, rate: float, frames: Iterator[np.ndarray]) -> int:
    """Write an MP4 file that gets its name when it is whole; returns the number of frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    writer, count = None, 0
    try:
        for frame in frames:
            writer = writer or _open_writer(temporary, rate, frame.shape[1::-1])
            writer.write(frame)
            count += 1
        if writer:
            writer.release()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _open_writer(path: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise InputError(f"OpenCV cannot write a video of {size[0]}x{size[1]} pixels to {path}")
    return writer


class Window:
    """Shows each image until the next one, and the last one until a key is pressed.

    Raises:
        InputError: There is no screen.
    """

    def __init__(self):
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise InputError("--show needs a screen: neither DISPLAY nor WAYLAND_DISPLAY is set")

    def show(self, image: np.ndarray) -> None:
        """Show (H, W, 3) BGR."""
        cv2.imshow("statescan", image)
        cv2.waitKey(1)

    def hold(self) -> None:
        """Wait for a key."""
        cv2.waitKey(0)
