"""tools/analyze_errors.py on predictions whose figures are known by hand."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from dense_data import SIZE, annotation, write_config, write_images
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
RED, BLUE = 0, 1
# Image 0: a red box found, 1: found beside itself, 2: a red one called blue, 3: nothing to find.
BOXES = [[(4, 6, 20, 10, RED)], [(4, 6, 20, 10, RED)], [(10, 10, 20, 20, RED)], []]
BOXES += [[(30, 20, 10, 10, BLUE)]]


def result(image: int, box: tuple, label: int, score: float, masks: bool) -> dict:
    """An entry of a result file; the box of one with masks says nothing."""
    whole = annotation(0, image, *box, label)
    entry = {key: whole[key] for key in ("image_id", "category_id", "bbox")}
    entry["score"] = score
    return entry | {"segmentation": encode(box), "bbox": [0, 0, 1, 1]} if masks else entry


def encode(box: tuple) -> dict:
    """COCO's run lengths of a rectangle."""
    from pycocotools import mask

    x, y, w, h = box
    pixels = np.zeros(SIZE, np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    code = mask.encode(pixels)
    return {"size": code["size"], "counts": code["counts"].decode()}


def results(masks: bool) -> list[dict]:
    """One perfect, one shifted to an IoU of 12/28, one of the wrong class, one weak."""
    return [
        result(0, (4, 6, 20, 10), RED, 0.9, masks),
        result(1, (12, 6, 20, 10), RED, 0.8, masks),
        result(2, (10, 10, 20, 20), BLUE, 0.7, masks),
        result(4, (30, 20, 10, 10), BLUE, 0.6, masks),
        result(4, (30, 20, 10, 10), RED, 0.1, masks),
    ]


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "data", BOXES)


@pytest.fixture
def analyze(data, monkeypatch, tmp_path):
    """Runs the tool; returns its folder and metrics."""

    def analyze(task: str, predictions: Path, *more: str) -> tuple[Path, dict]:
        out = tmp_path / "out"
        command = [str(write_config(data, task)), str(predictions), "--out", str(out), *more]
        monkeypatch.setattr("sys.argv", ["analyze_errors.py", *command])
        runpy.run_path(str(ROOT / "tools/analyze_errors.py"), run_name="__main__")
        return out, json.loads((out / "metrics.json").read_text())

    return analyze


def write(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_a_detectors_figures_by_hand(analyze, tmp_path, masks, capsys):
    out, metrics = analyze("detection", write(tmp_path / "p.json", results(masks)))
    # red: hit, miss, false at three objects → precision 1 up to a recall of 1/3: 34 of 101 points;
    # blue: false, then hit at one object → precision 1/2 everywhere. All areas are small.
    red = dict.fromkeys(["AP", "AP50", "AP75", "AP_small"], pytest.approx(34 / 101))
    blue = dict.fromkeys(["AP", "AP50", "AP75", "AP_small"], pytest.approx(0.5))
    absent = {"AP_medium": None, "AP_large": None}
    assert metrics["classes"] == {"red": red | absent, "blue": blue | absent}
    assert metrics["all"]["AP"] == pytest.approx((34 / 101 + 0.5) / 2)
    assert metrics["confusion"] == {
        "names": ["red", "blue", "background"],
        "counts": [[1, 1, 1], [0, 1, 0], [1, 0, 0]],
    }
    assert metrics["images"] == {"0.png": 1, "1.png": 0, "2.png": 0, "3.png": 1, "4.png": 1}
    assert capsys.readouterr().out.splitlines()[-3].split() == [
        *("red", "0.337", "0.337", "0.337", "0.337", "–", "–")
    ]
    for name in ("confusion.png", "worst.png"):
        with Image.open(out / name) as image:
            assert image.width >= 500


def test_the_threshold_decides_on_confusion_alone(analyze, tmp_path):
    predictions = write(tmp_path / "p.json", results(masks=False))
    _, metrics = analyze("detection", predictions, "--score-threshold", "0.85")
    assert metrics["confusion"]["counts"] == [[1, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert metrics["classes"]["blue"]["AP"] == pytest.approx(0.5)
    _, metrics = analyze("detection", predictions, "--score-threshold", "0.05")
    assert metrics["confusion"]["counts"] == [[1, 1, 1], [0, 1, 0], [2, 0, 0]]


def test_all_is_what_coco_says(analyze, data, tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    entries = [
        result(image, (x, y, 18, 12), int(rng.integers(2)), float(rng.random()), False)
        for image in range(5)
        for x, y in rng.integers(0, 36, (6, 2)).tolist()
    ]
    predictions = write(tmp_path / "p.json", entries + results(masks=False))
    _, metrics = analyze("detection", predictions)
    truth = COCO(str(data / "instances.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
    for step in (evaluator.evaluate, evaluator.accumulate, evaluator.summarize):
        step()
    expected = [None if value == -1 else value for value in evaluator.stats[:6].tolist()]
    assert list(metrics["all"].values()) == pytest.approx(expected)


def test_nothing_found(analyze, tmp_path):
    _, metrics = analyze("detection", write(tmp_path / "p.bbox.json", []))
    assert metrics["all"]["AP"] == 0
    assert metrics["confusion"]["counts"] == [[0, 0, 3], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"cannot be read: .*No such file"),
        ({"AP": 1}, r"are no COCO results: expected a list of objects with image_id"),
        ([{"image_id": 0, "score": 1}], r"are no COCO results"),
        ([result(77, (0, 0, 5, 5), 0, 1.0, False)], r"no annotations have image_id 77$"),
        ([result(0, (0, 0, 5, 5), 5, 1.0, False)], r"no annotations have category_id 60$"),
    ],
    ids=["missing", "other-json", "incomplete", "other-image", "other-category"],
)
def test_bad_detections_are_one_sentence(analyze, tmp_path, content, sentence):
    path = tmp_path / "p.json"
    if content is not None:
        write(path, content)
    with pytest.raises(SystemExit, match=rf"^error: predictions '.*p\.json' .*{sentence}"):
        analyze("detection", path)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def maps(data, tmp_path):
    """A folder of label maps: perfect ones but for image 0, all ground, and 2, blue for red."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for image in range(5):
        labels = np.asarray(Image.open(data / f"labels/{image}.png")).copy()
        labels[labels == 1] = {0: 0, 2: 2}.get(image, 1)
        Image.fromarray(labels).save(folder / f"{image}.png")
    return folder


def test_a_segmenters_figures_by_hand(analyze, maps, capsys):
    out, metrics = analyze("segmentation", maps)
    pixels = 5 * SIZE[0] * SIZE[1]
    ground = pixels - 200 - 200 - 400 - 100
    assert metrics["confusion"]["counts"] == [[ground, 0, 0], [200, 200, 400], [0, 0, 100]]
    assert metrics["classes"] == {
        "ground": {"IoU": pytest.approx(ground / (ground + 200)), "accuracy": 1},
        "red": {"IoU": 0.25, "accuracy": 0.25},
        "blue": {"IoU": 0.2, "accuracy": 1},
    }
    assert metrics["all"] == {
        "IoU": pytest.approx((ground / (ground + 200) + 0.25 + 0.2) / 3),
        "accuracy": pytest.approx((1 + 0.25 + 1) / 3),
        "pixel_accuracy": pytest.approx(1 - 600 / pixels),
    }
    size = SIZE[0] * SIZE[1]
    assert metrics["images"]["0.png"] == pytest.approx((1 - 200 / size + 0) / 2, abs=1e-4)
    assert metrics["images"]["2.png"] == pytest.approx(1 / 3, abs=1e-4)
    assert [metrics["images"][f"{i}.png"] for i in (1, 3, 4)] == [1, 1, 1]
    assert "wrote metrics.json" in capsys.readouterr().out
    with Image.open(out / "worst.png") as image:
        assert image.width == 1000


def test_ignored_pixels_and_labels_from_one(analyze, data, maps):
    for folder in (data / "labels", maps):  # as in ADE20K: 0 is no class, and left out
        for path in folder.iterdir():
            labels = np.asarray(Image.open(path)) + 1
            if folder != maps:
                labels[:, :10] = 0
            Image.fromarray(labels).save(path)
    reduced = "test_dataloader.dataset.reduce_zero_label=True"
    _, metrics = analyze("segmentation", maps, "--cfg-options", reduced)
    counts = np.array(metrics["confusion"]["counts"])
    assert counts.sum() == 5 * SIZE[0] * (SIZE[1] - 10)
    assert counts[1].tolist() == [14 * 10, 14 * 10, 400]  # of 20 columns from 4 on


@pytest.mark.parametrize(
    ("name", "labels", "sentence"),
    [
        ("1.png", None, r"1 of 5 images have no prediction, such as .*1\.png$"),
        ("1.png", np.zeros((4, 9), np.uint8), r"1\.png has 9x4 pixels, expected 64x48"),
        ("1.png", np.full(SIZE, 3, np.uint8), r"1\.png has classes 3 to 3, expected 0 to 2$"),
        ("1.png", np.zeros((*SIZE, 3), np.uint8), r"1\.png' has colours, expected one number"),
        ("1.png", b"\x89PNG", r"1\.png' cannot be read"),
    ],
    ids=["missing", "size", "class", "colours", "damaged"],
)
def test_bad_label_maps_are_one_sentence(analyze, maps, name, labels, sentence):
    path = maps / name
    path.unlink()
    if isinstance(labels, bytes):
        path.write_bytes(labels)
    elif labels is not None:
        Image.fromarray(labels).save(path)
    with pytest.raises(SystemExit, match=rf"^error: .*{sentence}"):
        analyze("segmentation", maps)


def test_a_label_out_of_range_is_named(analyze, data, maps):
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(data / "labels/3.png")
    with pytest.raises(SystemExit, match=r"label map of image .*3\.png has classes 7 to 7"):
        analyze("segmentation", maps)
