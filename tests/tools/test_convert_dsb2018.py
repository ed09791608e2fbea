"""Nuclei's numbers in PNGs to COCO annotations."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch):
    """Call the tool with a command line."""

    def call(*args):
        monkeypatch.setattr("sys.argv", ["convert_dsb2018.py", *map(str, args)])
        runpy.run_path(str(ROOT / "tools/convert_dsb2018.py"), run_name="__main__")

    return call


def nuclei() -> dict[str, np.ndarray]:
    """Maps of a ring around another nucleus, of touching ones, of one in two parts, of none."""
    ring = np.zeros((12, 9), np.uint16)
    ring[1:9, 1:9] = 300
    ring[3:7, 3:7] = 0
    ring[4:6, 4:6] = 7
    touching = np.zeros((8, 10), np.uint16)
    touching[2:6, 0:5], touching[2:6, 5:10] = 1, 2
    touching[0, 3] = 2  # apart from the rest of it
    return {"ring.png": ring, "touching.png": touching, "empty.png": np.zeros((5, 6), np.uint16)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "instances").mkdir()
    for name, ids in nuclei().items():
        Image.fromarray(ids).save(tmp_path / "instances" / name)
    splits = {"train": ["ring.png", "empty.png"], "val": ["touching.png"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    return tmp_path


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def decode(annotation) -> np.ndarray:
    return coco_mask.decode(annotation["segmentation"]).astype(bool)


def masks_of(data, name) -> list[np.ndarray]:
    (number,) = (image["id"] for image in data["images"] if image["file_name"] == name)
    return [decode(a) for a in data["annotations"] if a["image_id"] == number]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_numbers_become_masks_and_back(folder, run, capsys):
    run(folder)
    assert capsys.readouterr().out == "train: 2 images, 2 nuclei\nval: 1 images, 2 nuclei\n"
    train, val = (
        json.loads((folder / f"instances_{s}.json").read_text()) for s in ("train", "val")
    )
    assert train["categories"] == val["categories"] == [{"id": 1, "name": "nucleus"}]
    for data, name, numbers in ((train, "ring.png", (7, 300)), (val, "touching.png", (1, 2))):
        ids = nuclei()[name]
        found = masks_of(data, name)
        assert len(found) == 2
        for mask, number in zip(found, numbers, strict=True):
            assert np.array_equal(mask, ids == number)
    assert masks_of(train, "empty.png") == []
    (empty,) = (image for image in train["images"] if image["file_name"] == "empty.png")
    assert (empty["height"], empty["width"]) == (5, 6)
    _, ring = train["annotations"]
    assert (ring["bbox"], ring["area"]) == ([1, 1, 8, 8], 48)
    assert [a["bbox"] for a in val["annotations"]] == [[0, 2, 5, 4], [3, 0, 7, 6]]


def test_into_another_folder_with_paths_of_the_images(folder, run):
    out = folder / "out"
    run(folder, "--out", out)
    data = json.loads((out / "instances_val.json").read_text())
    assert data["images"][0]["file_name"] == str(folder.resolve() / "images" / "touching.png")
    assert not (folder / "instances_val.json").exists()


@pytest.mark.parametrize("missing", ["splits.json", "instances/touching.png"])
def test_says_what_is_missing_and_writes_no_half(folder, run, missing):
    (folder / missing).unlink()
    with pytest.raises(SystemExit, match=f"^error: there is no {folder / missing}, expected"):
        run(folder)
    assert not (folder / "instances_val.json").exists()


def test_an_image_in_colours_is_refused(folder, run):
    Image.new("RGB", (4, 4)).save(folder / "instances/ring.png")
    with pytest.raises(SystemExit, match=r"ring\.png has 3 channels, expected one"):
        run(folder)
