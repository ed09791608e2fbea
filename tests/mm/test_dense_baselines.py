"""Constant answers, against what is plain by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from statescan.mm.dense_baselines import constant_boxes_map, constant_class_miou, mean_boxes


def write_coco(path, boxes):
    """A COCO file with an image a box, (category, left, top, width, height, crowd)."""
    images = [{"id": i, "width": 50, "height": 50} for i in range(len(boxes))]
    annotations = [
        {
            "id": i + 1,
            "image_id": i,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": crowd,
        }
        for i, (category, *box, crowd) in enumerate(boxes)
    ]
    categories = [{"id": i, "name": str(i)} for i in (1, 2)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


TRAIN = [(1, 0, 0, 10, 20, 0), (1, 10, 0, 30, 20, 0), (2, 5, 5, 8, 8, 0), (2, 0, 0, 50, 50, 1)]


def test_mean_boxes_leave_crowds_out(tmp_path):
    means = mean_boxes(write_coco(tmp_path / "a.json", TRAIN))
    assert {k: v.tolist() for k, v in means.items()} == {1: [5, 0, 20, 20], 2: [5, 5, 8, 8]}


@pytest.mark.parametrize(
    ("val", "expected"),
    [
        ([(1, 5, 0, 20, 20, 0)], 1.0),
        ([(1, 25, 25, 20, 20, 0)], 0.0),
        # Of IoU 10*20 / 20*20 = 0.5: found at the lowest of ten thresholds.
        ([(1, 5, 0, 10, 20, 0)], 0.1),
        # Two images, a box of each category on one of them, found first or after a false one of
        # equal score: precision 1 up to recall 1, and 1/2.
        ([(1, 5, 0, 20, 20, 0), (2, 5, 5, 8, 8, 0)], (1 + 0.5) / 2),
    ],
)
def test_map_of_mean_boxes(tmp_path, val, expected):
    train = write_coco(tmp_path / "train.json", TRAIN)
    found = constant_boxes_map(train, write_coco(tmp_path / "val.json", val))
    assert found == pytest.approx(expected)


def write_map(path, rows):
    Image.fromarray(np.array(rows, np.uint8)).save(path)
    return path


def test_miou_of_the_commonest_class(tmp_path):
    train = [write_map(tmp_path / "t.png", [[1, 1], [1, 0]])]
    val = [write_map(tmp_path / f"{i}.png", rows) for i, rows in enumerate([[[1, 0]], [[2, 0]]])]
    assert constant_class_miou(train, val, 3) == pytest.approx(100 * (1 / 4) / 3)
    assert constant_class_miou(train, val, 5) == pytest.approx(100 * (1 / 4) / 3)
    assert constant_class_miou(train, train, 3) == pytest.approx(100 * (3 / 4) / 2)
