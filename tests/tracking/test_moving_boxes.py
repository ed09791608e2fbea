"""Boxes that move: the same for the same seed, at home in the image, and not along lines."""

import numpy as np
import pytest

from statescan.tracking import mot_files
from statescan.tracking.boxes import iou_matrix
from statescan.tracking.scenes import moving_boxes, pan, walk

SIZE = (640, 480)


def test_the_seed_decides_all_of_it():
    one, same, other = (moving_boxes(seed, 50, 6, SIZE) for seed in (3, 3, 4))
    for frame, (ids, boxes, scores) in one.items():
        for mine, theirs in zip((ids, boxes, scores), same[frame], strict=True):
            assert np.array_equal(mine, theirs)
    assert not np.array_equal(one[1].boxes, other[1].boxes)


def test_a_longer_scene_begins_as_a_shorter_one():
    short, long = (moving_boxes(0, frames, 5, SIZE) for frames in (20, 60))
    assert list(long) == list(range(1, 61))
    for frame in short:
        assert np.array_equal(short[frame].boxes, long[frame].boxes)


@pytest.mark.parametrize("camera", [0.0, 0.1])
def test_boxes_have_ids_sizes_and_centres_in_the_image(camera):
    for ids, boxes, scores in moving_boxes(1, 300, 8, SIZE, camera=camera).values():
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(range(1, 9))
        centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        assert ((centers >= -0.01) & (centers <= SIZE)).all()
        assert (sizes > 1).all()
        assert (sizes[:, 1] < 0.31 * SIZE[1]).all()
        assert (scores == 1).all()


def test_targets_turn_stop_and_keep_to_the_neighbourhood_of_the_image():
    centers, heights = walk(0, 600, 20, SIZE)
    steps = np.diff(centers, axis=0)
    speed = np.linalg.norm(steps, axis=-1)
    headings = np.unwrap(np.arctan2(steps[..., 1], steps[..., 0]), axis=0)
    assert (np.ptp(headings, axis=0) > np.pi / 2).all()  # every target turns
    assert (speed.min(axis=0) < 0.1 * speed.max(axis=0)).mean() > 0.8  # nearly all stop at times
    assert speed.max() < 0.017 * SIZE[1]
    assert (np.abs(np.diff(heights, axis=0)) < 0.02 * heights[1:]).all()
    assert ((centers > -0.4 * np.array(SIZE)) & (centers < 1.4 * np.array(SIZE))).all()


def test_targets_leave_and_return_with_their_ids():
    frames = moving_boxes(0, 600, 20, SIZE)
    there = np.array([np.isin(np.arange(1, 21), boxes.ids) for boxes in frames.values()])
    returns = (np.diff(there.astype(int), axis=0) == 1).sum()
    assert returns > 3
    assert there.mean() > 0.7


def test_targets_cross():
    crossings = 0
    for _, boxes, _ in moving_boxes(0, 300, 10, SIZE).values():
        crossings += (np.triu(iou_matrix(boxes, boxes), 1) > 0.3).sum()
    assert crossings > 20


def test_aspects_are_kept():
    for ids, boxes, _ in moving_boxes(5, 40, 2, SIZE, aspects=(0.5, 2.0)).values():
        aspect = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
        assert np.allclose(aspect, np.array([0.5, 2.0])[ids - 1], rtol=1e-3)


def test_a_camera_moves_everything_alike():
    still, moved = (
        walk(2, 100, 3, SIZE)[0] - shift for shift in (0, pan(2, 100, SIZE, 0.1)[:, None])
    )
    assert np.allclose(np.ptp(moved - still, axis=1), 0)
    assert 0 < np.abs(pan(2, 100, SIZE, 0.1)).max() < 0.1 * max(SIZE)


def test_files_read_back(tmp_path):
    frames = moving_boxes(0, 30, 4, SIZE)
    mot_files.write(tmp_path / "gt.txt", frames.items(), label=1)
    again = mot_files.read(tmp_path / "gt.txt")
    for frame, (ids, boxes, _) in frames.items():
        assert np.array_equal(ids, again[frame].ids)
        assert np.allclose(boxes, again[frame].boxes, atol=0.011)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 3, SIZE), "frames is 0, expected at least 1"),
        ((0, 5, 0, SIZE), "targets is 0, expected at least 1"),
        ((0, 5, 3, (0, 480)), "size is 0, expected at least 1"),
    ],
)
def test_numbers_below_one_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        moving_boxes(*arguments)


def test_aspects_of_other_length_are_refused():
    with pytest.raises(ValueError, match="aspects has length 2, expected 3, as targets"):
        moving_boxes(0, 5, 3, SIZE, aspects=(1, 1))
