"""MOTChallenge files, and training windows over them."""

import numpy as np
import pytest

from statescan.tracking import ChangeUnit, mot_files, tracks, windows
from statescan.tracking.mot_files import Boxes

ROWS = """1,7,10,20,30,40,1,-1,-1,-1
2,7,12,20,30,40,1,-1,-1,-1
2,8,0,0,5,5,0,-1,-1,-1
4,7,16,20,30,40,1,-1,-1,-1
"""


@pytest.fixture
def frames(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text(ROWS)
    return mot_files.read(path)


def test_reading(frames):
    assert list(frames) == [1, 2, 4]
    assert frames[2].ids.tolist() == [7]  # the row marked 0 is left out
    np.testing.assert_array_equal(frames[4].boxes, [[16, 20, 46, 60]])


def test_writing_is_reading(frames, tmp_path):
    path = tmp_path / "new" / "again.txt"
    mot_files.write(path, frames.items())
    again = mot_files.read(path)
    assert list(again) == list(frames)
    for frame in frames:
        for got, want in zip(again[frame], frames[frame], strict=True):
            np.testing.assert_array_equal(got, want)
    assert [p.name for p in path.parent.iterdir()] == ["again.txt"]


def test_a_failed_write_leaves_the_old_file(frames, tmp_path):
    path = tmp_path / "results.txt"
    path.write_text("before")

    def broken():
        yield 1, frames[1]
        raise RuntimeError("out of frames")

    with pytest.raises(RuntimeError, match="out of frames"):
        mot_files.write(path, broken())
    assert path.read_text() == "before"


@pytest.mark.parametrize("line", ["1,2,three,4,5,6,7", "1,2,3"])
def test_a_bad_row_is_named(tmp_path, line):
    path = tmp_path / "gt.txt"
    path.write_text(ROWS + line + "\n")
    with pytest.raises(ValueError, match=f"line 5, is '{line}', expected at least frame"):
        mot_files.read(path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("\n")
    assert mot_files.read(path) == {}


def test_runs_end_where_a_frame_is_missing(frames):
    assert [len(run) for run in tracks(frames)] == [2, 1]


def straight(length):
    boxes = np.array([[100 + 4.0 * t, 50, 104 + 4 * t, 60] for t in range(length)])
    return tracks(
        {t + 1: Boxes(np.array([1]), boxes[t : t + 1], np.ones(1)) for t in range(length)}
    )


def test_windows_slide():
    changes, count, target = windows(straight(6), 3, unit=ChangeUnit(part=0.5))
    assert count.tolist() == [1, 2, 3, 3]
    np.testing.assert_array_equal(changes[1], [[0, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]])
    np.testing.assert_array_equal(target, [[2, 0, 0, 0]] * 4)  # 4 pixels of a box 4 wide


def test_the_papers_windows_are_full():
    assert windows(straight(6), 3, shortest=3).count.tolist() == [3, 3]


def test_changes_as_parts_of_the_image():
    target = windows(straight(4), 3, unit=ChangeUnit("image", 0.1, (100, 200))).target
    np.testing.assert_allclose(target[0], [4 / 20, 0, 0, 0])


def test_tracks_too_short():
    with pytest.raises(ValueError, match="longest of 1 tracks has 2 frames on end, expected at"):
        windows(straight(2), 3)
