"""Detections made from ground truth."""

import numpy as np
import pytest

from statescan.tracking.boxes import iou_matrix, to_centers
from statescan.tracking.mot_files import Boxes
from statescan.tracking.noise import detected, dropped, hidden_share

GRID = np.array(
    [[100.0 * i, 100 * j, 100 * i + 40, 100 * j + 80] for i in range(5) for j in range(4)]
)
FRAMES = {t: Boxes(np.arange(20), GRID, np.ones(20)) for t in range(1, 101)}
SIZE = (500, 400)


def test_dropping_keeps_boxes_as_they_are():
    kept = dropped(FRAMES, 0.3, seed=0)
    assert sum(len(f.boxes) for f in kept.values()) == pytest.approx(0.7 * 2000, rel=0.05)
    assert {tuple(box) for f in kept.values() for box in f.boxes} == {tuple(box) for box in GRID}
    assert {i for f in kept.values() for i in f.ids} == {-1}
    again, other = dropped(FRAMES, 0.3, seed=0), dropped(FRAMES, 0.3, seed=1)
    assert all(np.array_equal(again[t].boxes, kept[t].boxes) for t in FRAMES)
    assert any(len(other[t].boxes) != len(kept[t].boxes) for t in FRAMES)


def test_the_noise_of_a_detector_is_as_asked_for():
    found = detected(FRAMES, SIZE, 0, missed=0.2, jitter=0.05, false=0)
    boxes = np.concatenate([f.boxes for f in found.values()])
    assert len(boxes) == pytest.approx(0.8 * 2000, rel=0.05)
    nearest = GRID[iou_matrix(boxes, GRID).argmax(1)]
    error = (to_centers(boxes) - to_centers(nearest)) / [40, 80, 40, 80]
    np.testing.assert_allclose(error.std(0), 0.05, rtol=0.1)
    assert min(f.scores.min() for f in found.values()) >= 0.6


def test_false_detections():
    found = detected(FRAMES, SIZE, 0, missed=1, false=2)
    assert sum(len(f.boxes) for f in found.values()) == pytest.approx(200, rel=0.2)
    assert all((f.boxes[:, 2:] > f.boxes[:, :2]).all() for f in found.values())


def test_the_nearer_box_hides_the_other():
    boxes = np.array([[0.0, 0, 10, 20], [0, 5, 10, 25], [50, 0, 60, 20]])
    np.testing.assert_allclose(hidden_share(boxes), [0.75, 0, 0])
    assert hidden_share(np.zeros((0, 4))).shape == (0,)
    found = detected(
        {1: Boxes(np.arange(3), boxes, np.ones(3))}, SIZE, 0, missed=0, jitter=0, false=0
    )
    np.testing.assert_allclose(found[1].boxes, boxes[1:])
