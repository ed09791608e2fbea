"""tools/browse_dataset.py on tiny images."""

import io
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from dense_data import SIZE, write_config, write_images
from PIL import Image

from statescan.mm import load_config
from statescan.mm.reports.samples import draw_samples

ROOT = Path(__file__).resolve().parents[2]
BOXES = [[(4, 6, 20, 12, 0), (30, 20, 24, 16, 1)], [], [(10, 10, 30, 30, 1)]]


@pytest.fixture
def browse(monkeypatch, tmp_path):
    """Runs the tool on three images, one of them without objects; returns its picture."""
    root = write_images(tmp_path / "data", BOXES)

    def browse(task: str, *more: str) -> bytes:
        out = tmp_path / "sheet.png"
        command = ["browse_dataset.py", str(write_config(root, task)), "--out", str(out), *more]
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(str(ROOT / "tools/browse_dataset.py"), run_name="__main__")
        return out.read_bytes()

    return browse


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_sheet_that_the_seed_decides(browse, task, capsys):
    first = browse(task, "--number", "3", "--columns", "2")
    assert capsys.readouterr().out.startswith("wrote 3 samples to ")
    assert Image.open(io.BytesIO(first)).width == 1000
    assert browse(task, "--number", "3", "--columns", "2") == first
    assert browse(task, "--number", "3", "--columns", "2", "--seed", "3") != first


def test_samples_are_those_of_the_pipeline(tmp_path):
    root = write_images(tmp_path / "data", BOXES[2:])
    config = load_config(write_config(root, "segmentation"))
    config.train_dataloader.dataset.pipeline[2].prob = 1.0  # flip
    (drawn,) = draw_samples(config, number=9)
    assert drawn.shape == (*SIZE, 3)
    ground, blue = drawn[2, 2].astype(int), drawn[15, -15].astype(int)
    before = cv2.imread(str(root / "images/0.png"))
    assert np.abs(ground - before[2, 2]).sum() > 50  # coloured by its class
    assert np.abs(blue - drawn[15, 12]).sum() > 50  # 10:40 of 64 columns is 24:54 when flipped


def test_an_image_without_objects_stays_bare(tmp_path):
    root = write_images(tmp_path / "data", [[]])
    (drawn,) = draw_samples(load_config(write_config(root, "detection")), number=1)
    assert np.ptp(drawn) == 0
    assert drawn.shape == (72, 96, 3)


def test_shows_each_until_a_key(browse, monkeypatch):
    waits = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda name, image: None)
    monkeypatch.setattr(cv2, "waitKey", waits.append)
    browse("segmentation", "--number", "2", "--show")
    assert waits == [1, 0, 1, 0]


def test_missing_data_are_one_sentence(browse, tmp_path):
    (tmp_path / "data/instances.json").unlink()
    with pytest.raises(SystemExit, match=r"^error: data of .*: .*No such file.*instances\.json"):
        browse("detection")
    for path in (tmp_path / "data/images").iterdir():
        path.unlink()
    with pytest.raises(SystemExit, match=r"^error: data of .*: there are no images"):
        browse("segmentation")


def test_no_samples_are_no_picture(browse):
    with pytest.raises(SystemExit, match=r"^error: there is no image to draw"):
        browse("segmentation", "--number", "0")


def test_classification_has_nothing_to_draw(tmp_path, monkeypatch):
    from test_train_and_test import write_cifar10

    write_cifar10(tmp_path)
    command = ["browse_dataset.py", "vmamba_nano_cifar10", "--cfg-options"]
    monkeypatch.setattr("sys.argv", [*command, f"data_root={tmp_path}"])
    with pytest.raises(SystemExit, match="no boxes, masks or label maps"):
        runpy.run_path(str(ROOT / "tools/browse_dataset.py"), run_name="__main__")
