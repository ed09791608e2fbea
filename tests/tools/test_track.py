"""tools/track.py and tools/mot_to_coco.py on a square that walks through a grey video."""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from statescan.mm import load_config
from statescan.tracking import mot_files
from statescan.tracking.mot_files import Boxes

ROOT = Path(__file__).resolve().parents[2]
FRAMES, HEIGHT, WIDTH = 12, 96, 128
DETECTOR = ROOT / "configs/detection/from_scratch/retinanet_vmamba_nano_pets.py"


def box(number):
    return np.array([[6.0 * number, 20, 6 * number + 16, 60]])


def image(number):
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    x1, y1, x2, y2 = box(number)[0].astype(int)
    picture[y1:y2, x1:x2] = 250
    return picture


@pytest.fixture
def folder(tmp_path):
    """Twelve frames of which the fifth is damaged, and their boxes in a file."""
    images = tmp_path / "frames"
    images.mkdir()
    for number in range(1, FRAMES + 1):
        cv2.imwrite(str(images / f"{number:03}.png"), image(number))
    damaged = images / "005.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    rows = ((n, Boxes(np.array([1]), box(n), np.array([0.9]))) for n in range(1, FRAMES + 1))
    mot_files.write(tmp_path / "det.txt", rows)
    return tmp_path


@pytest.fixture
def video(folder):
    path = folder / "video.mp4"
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, 10.0, (WIDTH, HEIGHT))
    for number in range(1, FRAMES + 1):
        writer.write(image(number))
    writer.release()
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool as from the command line; returns what it printed."""

    def run(tool, *arguments):
        monkeypatch.setattr("sys.argv", [tool, *map(str, arguments)])
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        return capsys.readouterr().out

    return run


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    return frames


@pytest.mark.parametrize("tracker", ["kalman", "stationary"])
def test_a_folder_with_a_damaged_frame(folder, run, tracker):
    out = folder / "out"
    told = run(
        *("track.py", folder / "frames", "--detections", folder / "det.txt"),
        *("--tracker", tracker, "--out", out),
    )
    assert "1 of 12 frames cannot be read" in told
    assert "1 targets in 12 frames" in told
    tracks = mot_files.read(out / "tracks.txt")
    assert {n: found.ids.tolist() for n, found in tracks.items()} == {
        n: [1] for n in range(1, FRAMES + 1)
    }
    np.testing.assert_allclose(tracks[7].boxes, box(7))
    shown = frames_of(out / "tracks.mp4")
    assert len(shown) == FRAMES
    assert np.abs(shown[6].astype(int) - image(7)).max() > 60  # something is drawn
    assert cv2.imread(str(out / "tracks.png")).shape == (600, 1400, 3)
    names = ["detections.txt", "tracks.mp4", "tracks.png", "tracks.txt"]
    assert sorted(path.name for path in out.iterdir()) == names
    found = mot_files.read(out / "detections.txt")
    assert [frame.ids.tolist() for frame in found.values()] == [[-1]] * FRAMES


def test_a_video_that_ends_early(video, folder, run):
    whole = video.read_bytes()
    assert "frames cannot be read" not in run_on(video, folder, run)
    middle = len(whole) // 2
    video.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    run_on(video, folder, run)  # goes on, whatever OpenCV makes of it
    assert 1 in mot_files.read(folder / "out/tracks.txt")


def run_on(source, folder, run, *more):
    detections = ("--detections", folder / "det.txt")
    return run(
        "track.py", source, *detections, "--tracker", "kalman", "--out", folder / "out", *more
    )


def test_our_detector_feeds_the_tracker(folder, run):
    """Untrained, at a score of 0: the frames' way through a detector, a config and a tracker."""
    config = load_config(DETECTOR)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    torch.save({"state_dict": model.state_dict()}, folder / "detector.pth")
    path = folder / "detector.py"
    path.write_text(
        f'_base_ = "{DETECTOR}"\nmodel = dict(test_cfg=dict(score_thr=0.0, max_per_img=3))'
    )
    told = run(
        *("track.py", folder / "frames", "--detector", path, folder / "detector.pth"),
        *("--tracker", "stationary", "--out", folder / "out"),
        *("--tracker-options", "low_score=0.0", "new_score=0.0"),
    )
    assert "1 of 12 frames cannot be read" in told
    tracks = mot_files.read(folder / "out/tracks.txt")
    assert sorted(tracks) == [n for n in range(1, FRAMES + 1) if n != 5]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"video": "none.avi"}, "there is no video '.*none.avi'"),
        ({"video": "noise.avi"}, "noise.avi' is neither a video nor a folder of images"),
        ({"video": "empty"}, "empty' is neither a video nor a folder of images"),
        ({"--detections": "none.txt"}, "none.txt"),
        ({"--detections": "video.mp4"}, "video.mp4, line 1, is .*, expected at least frame, id"),
        ({"--tracker": "kalmann"}, "there is no config 'kalmann'"),
        ({"--tracker": "mtp"}, "mtp_pets/epoch_15.pth' does not exist"),
    ],
)
def test_bad_input_is_a_sentence(folder, video, run, change, sentence):
    (folder / "empty").mkdir()
    (folder / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    given = {"video": "frames", "--detections": "det.txt", "--tracker": "kalman", **change}
    named = ("video", "--detections")
    given = {k: folder / v if k in named else v for k, v in given.items()}
    source = given.pop("video")
    with pytest.raises(SystemExit, match=f"error: .*{sentence}"):
        run(
            "track.py",
            source,
            *(x for pair in given.items() for x in pair),
            "--out",
            folder / "out",
        )
    assert not (folder / "out").exists()


def test_old_results_stay_when_a_run_fails(folder, run, monkeypatch):
    run_on(folder / "frames", folder, run)
    before = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("statescan.mm.inference.track_video.as_boxes", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_on(folder / "frames", folder, run)
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir()} == before


def test_a_data_set_for_a_detector(folder, run):
    told = run(
        *("mot_to_coco.py", folder / "frames", folder / "det.txt", folder / "coco"),
        *("--split", "train", 1, 6, "--split", "test", 7, 12),
    )
    assert "11 images in" in told
    assert "1 could not be read" in told
    data = json.loads((folder / "coco/instances_train.json").read_text())
    assert [i["file_name"] for i in data["images"]] == [f"{n:06}.jpg" for n in (1, 2, 3, 4, 6)]
    assert data["annotations"][0]["bbox"] == [6, 20, 16, 40]
    assert (folder / "coco/images/000012.jpg").exists()
