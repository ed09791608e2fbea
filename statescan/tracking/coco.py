"""Ground truth of MOTChallenge as COCO's instances, for training a detector on the frames."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .boxes import have_area
from .mot_files import NO_BOXES, Boxes


def to_coco(
    frames: Mapping[int, Boxes],
    images: Iterable[tuple[int, str]],
    size: tuple[int, int],
    category: str = "pedestrian",
) -> dict[str, Any]:
    """COCO's dictionary of images, annotations and the one category, whose number is 1.

    Args:
        frames: Ground truth from `mot_files.read`.
        images: Frame number and file name of each image that there is.
        size: (width, height) of the images in pixels; boxes are cut to it.
        category: What the boxes show.
    """
    width, height = size
    entries, annotations = [], []
    for number, name in images:
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        found = frames.get(number, NO_BOXES)
        boxes = np.clip(found.boxes, 0, [width, height, width, height])
        for i in np.flatnonzero(have_area(boxes)):
            annotations.append(_annotation(len(annotations) + 1, number, found.ids[i], boxes[i]))
    return {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": 1, "name": category}],
    }


def _annotation(number: int, image: int, track: int, corners: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(float(value), 2) for value in corners)
    box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "track_id": int(track),
        "bbox": box,
        "area": round(box[2] * box[3], 2),
        "iscrowd": 0,
    }
