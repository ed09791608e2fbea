"""Following targets through a video: what tools/track.py writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import supervision
from tqdm import tqdm

from ...files import atomic_write
from ...tracking import mot_files, picture
from ...tracking.mot_files import Boxes
from ..errors import InputError
from .following import Detect, Follower, as_boxes
from .frames import Frames
from .media import write_video


class TrackPainter:
    """Draws boxes, ids and the way that each target came, a colour a target."""

    def __init__(self):
        by_track = {"color_lookup": supervision.ColorLookup.TRACK}
        self.boxes = supervision.BoxAnnotator(**by_track)
        self.names = supervision.LabelAnnotator(**by_track, text_scale=0.4, text_padding=2)
        self.ways = supervision.TraceAnnotator(**by_track)

    def __call__(self, image: np.ndarray, tracked: Boxes) -> np.ndarray:
        """A copy of an image (H, W, 3), BGR, with the targets of one frame."""
        if not len(tracked.ids):
            return image.copy()
        shown = supervision.Detections(xyxy=tracked.boxes, tracker_id=tracked.ids)
        drawn = self.boxes.annotate(self.ways.annotate(image.copy(), shown), shown)
        return self.names.annotate(drawn, shown, [str(i) for i in tracked.ids])


def track_video(frames: Frames, detect: Detect, tracker, folder: str | Path) -> dict[int, Boxes]:
    """Follow targets; write film, picture, tracks and detections, each whole or not at all.

    The files are ``tracks.mp4``, ``tracks.png`` and, in MOTChallenge's form, ``tracks.txt`` and
    ``detections.txt``. Where a frame cannot be read, the video shows the one before it again.

    Args:
        frames: The video.
        detect: From a frame's number and image, which may be None, to detections.
        tracker: From `build_tracker`.
        folder: Where to write.

    Returns:
        The tracks by frame number.

    Raises:
        InputError: No frame can be read.
    """
    folder, detections, tracks, sizes = Path(folder), {}, {}, []

    def drawn() -> Iterator[np.ndarray]:
        step, draw, last = Follower(tracker), TrackPainter(), None
        for number, image in tqdm(frames, unit="frame", disable=None):
            found = detect(number, image)
            detections[number], tracks[number] = as_boxes(found), as_boxes(step(found))
            last = last if image is None else image
            if last is not None:
                sizes.append(last.shape[1::-1])
                fits = sizes[-1] == sizes[0]  # in a folder, images may differ
                yield draw(last if fits else cv2.resize(last, sizes[0]), tracks[number])

    if not write_video(folder / "tracks.mp4", frames.rate, drawn()):
        raise InputError(f"no frame of {str(frames.path)!r} can be read")
    mot_files.write(folder / "detections.txt", detections.items())
    mot_files.write(folder / "tracks.txt", tracks.items())
    ids = {int(i) for found in tracks.values() for i in found.ids}
    title = f"{frames.path.name}: {len(ids)} targets in {len(tracks)} frames"
    atomic_write(folder / "tracks.png", picture.draw(tracks, sizes[0], title))
    return tracks
