"""tools/make_scenes.py: files that agree with each other, the same for the same seed."""

import configparser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from sprite_folder import load_tool, write_sprites

from statescan.mm import InputError
from statescan.mm.scenes import sprites
from statescan.tracking import mot_files

SIZE = ["--size", "64", "48"]
STILLS = [*SIZE, "--train", "6", "--val", "3"]
VIDEOS = [*SIZE, "--moving", "--train", "1", "--val", "1", "--frames", "20", "--targets", "6"]


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    return write_sprites(tmp_path_factory.mktemp("sprites"))


@pytest.fixture
def make(monkeypatch, cutouts):
    """Runs the tool and returns its folder."""
    tool = load_tool("make_scenes")

    def run(out: Path, *args: str) -> Path:
        command = ["make_scenes.py", str(out), "--sprites", str(cutouts), *args]
        monkeypatch.setattr("sys.argv", command)
        tool.main()
        return out

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check(annotations: list[dict], labels: np.ndarray) -> None:
    """Boxes and areas are those of the masks, and the masks make up the label map."""
    drawn = np.zeros_like(labels)
    for entry in annotations:
        mask = coco_mask.decode(entry["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        left, top, width, height = entry["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        assert entry["area"] == mask.sum() > 0
        assert not drawn[mask].any()
        drawn[mask] = entry["category_id"]
    assert np.array_equal(drawn, labels)


@pytest.mark.parametrize("kind", [STILLS, VIDEOS], ids=["stills", "videos"])
def test_the_seed_decides_every_byte(make, tmp_path, kind):
    one, same = (contents(make(tmp_path / name, *kind)) for name in "ab")
    assert one == same
    other = contents(make(tmp_path / "c", *kind, "--seed", "1"))
    assert one.keys() == other.keys()
    images = [name for name in one if name.endswith(".jpg")]
    assert images
    assert all(one[name] != other[name] for name in images)


def test_more_images_leave_the_first_as_they_are(make, tmp_path):
    few = contents(make(tmp_path / "few", *STILLS))
    many = contents(make(tmp_path / "many", *STILLS[:-3], "8", "--val", "3"))
    images = {name for name in few if name.endswith((".jpg", ".png"))}
    assert len(images) == 2 * 9
    assert all(few[name] == many[name] for name in images)


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 3)])
def test_boxes_masks_and_maps_of_stills_agree(make, tmp_path, capsys, split, count):
    folder = make(tmp_path / "scenes", *STILLS)
    coco = COCO(folder / f"annotations/{split}.json")
    assert [category["name"] for category in coco.cats.values()] == ["bar", "disc"]
    assert len(coco.imgs) == count
    for number, image in coco.imgs.items():
        with Image.open(folder / "images" / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (64, 48)
        labels = np.array(Image.open(folder / "labels" / split / f"{number:06d}.png"))
        annotations = coco.imgToAnns[number]
        check(annotations, labels)
        assert all(not entry["iscrowd"] and entry["visible"] >= 0.4 for entry in annotations)
    first = "6 images for training and 3 for validation, 2 categories"
    assert capsys.readouterr().out.splitlines()[0] == first


def test_boxes_masks_maps_and_ids_of_videos_agree(make, tmp_path):
    folder = make(tmp_path / "scenes", *VIDEOS)
    coco = COCO(folder / "annotations/train.json")
    scene = folder / "train/scene-0001"
    whole = mot_files.read(scene / "gt/gt.txt")
    categories = {}
    for number, image in coco.imgs.items():
        assert image["file_name"] == f"scene-0001/img1/{number:06d}.jpg"
        assert (folder / "train" / image["file_name"]).exists()
        assert (image["video_id"], image["frame_id"]) == (1, number - 1)
        annotations = coco.imgToAnns[number]
        check(annotations, np.array(Image.open(scene / f"labels/{number:06d}.png")))
        visible = {entry["instance_id"]: entry for entry in annotations if not entry["iscrowd"]}
        ids, boxes, _ = whole.get(number, mot_files.NO_BOXES)
        assert sorted(visible) == sorted(ids)
        for i, (x1, y1, x2, y2) in zip(ids, boxes, strict=True):
            left, top, width, height = visible[i]["bbox"]
            assert x1 <= left < left + width <= x2
            assert y1 <= top < top + height <= y2
            assert categories.setdefault(i, visible[i]["category_id"]) == visible[i]["category_id"]
    assert len(coco.imgs) == 20
    assert len(categories) >= 4
    hidden = [entry for entry in coco.anns.values() if entry["iscrowd"]]
    assert all(entry["visible"] < 0.4 for entry in hidden)
    rows = (scene / "gt/gt.txt").read_text().splitlines()
    assert sum(",0.0000," in row for row in rows) == len(hidden) > 0
    info = configparser.ConfigParser()
    info.read(scene / "seqinfo.ini")
    expected = {"name": "scene-0001", "imdir": "img1", "framerate": "25", "seqlength": "20"}
    assert dict(info["Sequence"]) == expected | {"imwidth": "64", "imheight": "48", "imext": ".jpg"}


def test_what_is_there_is_left_as_it_is(make, tmp_path, capsys):
    folder = make(tmp_path / "scenes", *STILLS)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (tmp_path / "scenes.tmp").mkdir()
    make(folder, *STILLS)
    assert capsys.readouterr().out.splitlines()[1] == f"already there: {folder}"
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_broken_off_folder_is_begun_again(make, tmp_path):
    (tmp_path / "scenes.tmp/images/train").mkdir(parents=True)
    (tmp_path / "scenes.tmp/images/train/000099.jpg").touch()
    folder = make(tmp_path / "scenes", *STILLS)
    assert len(list(folder.rglob("*.jpg"))) == 9
    assert not (tmp_path / "scenes.tmp").exists()


def test_other_scenes_are_not_overwritten(make, tmp_path):
    folder = make(tmp_path / "scenes", *STILLS)
    with pytest.raises(InputError, match=r"scenes holds something else than these scenes: delete"):
        make(folder, *STILLS, "--seed", "5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0", "48"], "size is 0, expected at least 16"),
        (["--train", "0"], "train is 0, expected at least 1"),
        (["--things", "3", "2"], r"things are 3 to 2, expected rising numbers from 1"),
        (["--moving", "--frames", "0"], "frames is 0, expected at least 1"),
        (["--moving", "--camera", "2"], r"camera is 2\.0, expected 0 to 0\.5"),
    ],
)
def test_bad_numbers_are_refused(make, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path / "scenes", *options)
    assert not (tmp_path / "scenes").exists()


def test_without_cut_outs_the_tool_ends_with_a_sentence(monkeypatch, tmp_path):
    tool = load_tool("make_scenes")
    monkeypatch.setattr(sprites, "INSTALLED", tmp_path / "none")
    monkeypatch.setattr(tool, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["make_scenes.py", str(tmp_path / "scenes")])
    with pytest.raises(SystemExit, match=r"^error: there are no cut-outs, .* or give --sprites"):
        tool.run_tool(tool.main)
