"""The order of association, and what a tracker does with bad detections."""

import tracemalloc

import numpy as np
import pytest
import supervision

from statescan.tracking import ConstantVelocity, Kalman, MambaTracker, Stationary, assign
from statescan.tracking.boxes import iou_matrix, to_centers, to_corners

A, B = [0.0, 0, 10, 10], [100.0, 0, 110, 10]


def shifted(box, x=0.0, y=0.0):
    return [box[0] + x, box[1] + y, box[2] + x, box[3] + y]


def feed(tracker, *frames, score=0.9):
    """Ids in the last frame."""
    for boxes in frames:
        ids = tracker.update(np.array(boxes).reshape(-1, 4), np.full(len(boxes), score))
    return ids.tolist()


def test_iou():
    got = iou_matrix(np.array([A, B]), np.array([A, shifted(A, 5), shifted(A, 0, 20)]))
    np.testing.assert_allclose(got, [[1, 1 / 3, 0], [0, 0, 0]])


def test_corners_and_centers():
    boxes = np.random.default_rng(0).random((5, 4))
    np.testing.assert_allclose(to_corners(to_centers(boxes)), boxes)


def test_assignment_is_the_best_one():
    similarity = np.array([[0.9, 0.8], [0.7, 0.1]])  # greedy would take 0.9 and 0.1
    rows, columns = assign(similarity, 0.05)
    assert dict(zip(rows, columns, strict=True)) == {0: 1, 1: 0}


def test_no_pair_at_the_floor():
    rows, columns = assign(np.array([[0.3, 0.31]]), 0.3)
    assert (rows.tolist(), columns.tolist()) == ([0], [1])
    assert assign(np.array([[0.3]]), 0.3)[0].size == 0


def test_ids_follow_targets_not_the_order_of_detections():
    tracker = MambaTracker(Stationary())
    assert feed(tracker, [A, B]) == [1, 2]
    assert feed(tracker, [shifted(B, 2), shifted(A, 2)]) == [2, 1]


def test_targets_seen_last_come_first():
    """A detection that two targets overlap belongs to the one that was seen in the last frame."""
    tracker = MambaTracker(Stationary())
    lost, active = A, shifted(A, 6)
    assert feed(tracker, [lost, active]) == [1, 2]
    assert feed(tracker, [active]) == [2]
    assert feed(tracker, [shifted(A, 2)]) == [2]  # nearer to target 1, which was not seen
    assert feed(tracker, [shifted(A, 2), shifted(A, 1)]) == [2, 1]


def test_a_target_that_leaves_and_returns():
    tracker = MambaTracker(ConstantVelocity(), patience=5)
    assert feed(tracker, [A], [shifted(A, 3)]) == [1]
    feed(tracker, [], [], [])
    assert feed(tracker, [shifted(A, 15)]) == [1]
    feed(tracker, *[[]] * 5)
    assert len(tracker) == 0
    assert feed(tracker, [shifted(A, 33)]) == [2]


def test_new_targets_need_their_score():
    tracker = MambaTracker(Stationary())
    assert feed(tracker, [A], score=0.6) == [-1]
    assert feed(tracker, [A], score=0.61) == [1]
    assert feed(tracker, [A], score=0.3) == [1]
    assert feed(tracker, [A], score=0.29) == [-1]


def test_labels_keep_targets_apart():
    boxes, scores = np.array([A]), np.array([0.9])
    for by_label, ids in ((True, [1, 2]), (False, [1, 1])):
        tracker = MambaTracker(Stationary(), by_label=by_label)
        assert [tracker.update(boxes, scores, np.array([k]))[0] for k in (0, 1)] == ids


def test_duplicates_get_different_ids():
    tracker = MambaTracker(Kalman())
    assert feed(tracker, [A, A, A]) == [1, 2, 3]
    assert sorted(feed(tracker, [A, A])) == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [[np.nan, 0, 1, 1], [0, 0, np.inf, 1], [5, 5, 1, 9], [0, 0, 0, 4]],
    ids=["nan", "inf", "negative", "flat"],
)
def test_boxes_without_area_are_passed_over(bad):
    tracker = MambaTracker(Kalman())
    with pytest.warns(UserWarning, match=r"boxes\[1\] is \[.*\], without an area: 1 of 3"):
        ids = tracker.update(np.array([A, bad, B]), np.full(3, 0.9))
    assert ids.tolist() == [1, -1, 2]
    assert np.isfinite(tracker.state["mean"]).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.zeros((2, 5)), np.zeros(2)), r"boxes have shape \(2, 5\), expected \(n, 4\)"),
        ((np.zeros((2, 4)), np.zeros(3)), "scores has length 3, expected 2"),
        ((np.zeros((2, 4)), np.zeros(2), np.zeros(1)), "labels has length 1, expected 2"),
    ],
)
def test_bad_shapes(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MambaTracker(Kalman()).update(*arguments)


def test_supervision_detections():
    tracker = MambaTracker(Kalman())
    found = supervision.Detections(
        xyxy=np.array([A, B]), confidence=np.array([0.9, 0.3]), class_id=np.array([0, 1])
    )
    tracked = tracker.update_with_detections(found)
    assert tracked.tracker_id.tolist() == [1]
    np.testing.assert_array_equal(tracked.xyxy, [A])


def test_reset_starts_a_new_video():
    tracker = MambaTracker(Kalman())
    feed(tracker, [A, B])
    tracker.reset()
    assert len(tracker) == 0
    assert feed(tracker, [B]) == [1]


def test_memory_does_not_grow():
    """New targets in every frame, for ten thousand frames."""
    tracker = MambaTracker(ConstantVelocity(), patience=3)
    boxes, scores = np.array([A, B]), np.ones(2)

    def run(frames):
        for _ in range(frames):
            tracker.update(boxes + tracker.next_id * 37 % 5000, scores)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    early, late = run(500), run(9500)
    tracemalloc.stop()
    assert len(tracker) <= 8
    assert late - early < 20_000
