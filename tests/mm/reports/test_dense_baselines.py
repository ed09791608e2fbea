"""Constant answers, against what is plain by hand."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from statescan.mm.reports.dense_baselines import constant_boxes_map, constant_class, mean_boxes


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


def segmenter(folder, train, val, classes: int) -> Config:
    """A config with one image a label map, whose numbers over the classes are void."""
    dataset = {"type": "BaseSegDataset", "metainfo": {"classes": list("abcde")[:classes]}}
    config = {"default_scope": "mmseg", "test_evaluator": {"type": "IoUMetric"}}
    for split, maps in (("train", train), ("test", val)):
        path = folder / split
        path.mkdir()
        for number, rows in enumerate(maps):
            pixels = np.array(rows, np.uint8)
            Image.fromarray(pixels).save(path / f"{number}.png")
            Image.fromarray(pixels).save(path / f"{number}.jpg")
        prefix = {"img_path": str(path), "seg_map_path": str(path)}
        config[f"{split}_dataloader"] = {"dataset": {**dataset, "data_prefix": prefix}}
    return Config(config)


TRAIN_MAP, VAL_MAPS = [[1, 1], [1, 0]], [[[1, 0]], [[2, 0]]]


@pytest.mark.parametrize(
    ("val", "classes", "iou"),
    [
        (VAL_MAPS, 3, (1 / 4) / 3),
        (VAL_MAPS, 5, (1 / 4) / 3),  # those that are nowhere do not count
        ([TRAIN_MAP], 3, (3 / 4) / 2),
        ([[[1, 0, 255, 255]]], 3, (1 / 2) / 2),
    ],
)
def test_the_commonest_class_everywhere(tmp_path, val, classes, iou):
    config = segmenter(tmp_path, [TRAIN_MAP, [[255] * 9]], val, classes)
    assert constant_class(config)["mIoU"] == pytest.approx(100 * iou, abs=0.005)
