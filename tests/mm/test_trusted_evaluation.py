"""The figures of detectors and segmenters, as our configs report them, on saved predictions: they
are those of pycocotools and those of the definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_definition import coco_metrics, decode, encode, iou_metrics
from mmengine.registry import METRICS, DefaultScope
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import confusion_matrix

from statescan.mm import load_config

FOLDER = Path(__file__).parents[2] / "configs"
SIZE = 200  # of the images: room for small, medium and large objects
NAMES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
# MMDetection takes mAP from 100 detections of an image and class, what else from 1000.
LIMITS = {name: 100 if name == "mAP" else 1000 for name in NAMES}
pytestmark = [
    pytest.mark.filterwarnings(  # pycocotools' own, when it reads masks under NumPy 2
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:`reduce_zero_label` will be deprecated:UserWarning:mmseg"),
]


def ellipse(box: np.ndarray) -> np.ndarray:
    """Mask (SIZE, SIZE) of the ellipse in a box x1, y1, x2, y2."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    middle, radius = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 <= 1


def random_boxes(rng, count: int) -> np.ndarray:
    """Boxes (count, 4) of sides from 8 to 190 pixels."""
    sides = np.exp(rng.uniform(np.log(10), np.log(150), (count, 1)))
    sides = sides * rng.uniform(0.8, 1.25, (count, 2))
    corner = rng.uniform(0, SIZE - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def random_truth(rng, images: int) -> tuple[dict, dict[int, np.ndarray]]:
    """An annotation file, and each image's boxes with their category as fifth number.

    Some objects are crowds, some images (every fifth) have none, some objects lie twice on each
    other, and category 30 has no object at all.
    """
    truth = {
        "images": [
            {"id": 7 * i + 3, "width": SIZE, "height": SIZE, "file_name": f"{i}.jpg"}
            for i in range(images)
        ],
        "categories": [{"id": i, "name": n} for i, n in ((4, "cell"), (9, "plate"), (30, "none"))],
        "annotations": [],
    }
    objects = {}
    for index, image in enumerate(truth["images"]):
        boxes = random_boxes(rng, 0 if index % 5 == 4 else rng.integers(1, 9))
        boxes = np.concatenate([boxes, boxes[:1]])
        categories = rng.choice([4, 9], len(boxes))
        objects[image["id"]] = np.column_stack([boxes, categories])
        for box, category in zip(boxes, categories.tolist(), strict=True):
            mask = ellipse(box)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                    "area": int(mask.sum()),
                    "segmentation": encode(mask),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return truth, objects


def random_predictions(rng, objects: np.ndarray, false: int) -> dict:
    """Detections around most objects and elsewhere, some twice, with few different scores."""
    known = objects[rng.random(len(objects)) < 0.8]
    sides = np.tile(known[:, 2:4] - known[:, :2], 2)
    near = (known[:, :4] + rng.normal(0, 0.04, sides.shape) * sides).clip(0, SIZE)
    boxes = np.concatenate([near, near[:2], random_boxes(rng, false)]).astype(np.float32)
    right = (known[:, 4] == 9).astype(int)
    labels = np.concatenate([right, right[:2], rng.integers(0, 3, false)])
    masks = np.array([ellipse(box) for box in boxes], bool).reshape(-1, SIZE, SIZE)
    scores = rng.integers(1, 9, len(boxes)).astype(np.float32) / 13
    scores[: len(near)] += rng.choice([0, 4, 4], len(near)) / 13
    arrays = {"bboxes": boxes, "scores": scores, "labels": labels, "masks": masks}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Folder of truth and saved predictions, and the metrics that our configs report for them."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("coco")
    truth, objects = random_truth(rng, images=14)
    (folder / "truth.json").write_text(json.dumps(truth))
    config = load_config(FOLDER / "detection/vmamba/mask_rcnn_vmamba_tiny_s1l8_1x_coco.py")
    evaluator = dict(config.test_evaluator)
    evaluator.update(ann_file=str(folder / "truth.json"), outfile_prefix=str(folder / "found"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        metric = METRICS.build(evaluator)
    metric.dataset_meta = {"classes": tuple(c["name"] for c in truth["categories"])}
    for index, image in enumerate(truth["images"][:-2]):  # the last two are never predicted
        false = {2: 0, 3: 400}.get(index, 12)  # and one has more than count
        predicted = random_predictions(rng, objects[image["id"]][: None if index - 2 else 0], false)
        sample = {"img_id": image["id"], "ori_shape": (SIZE, SIZE), "pred_instances": predicted}
        metric.process({}, [sample])
    return folder, metric.evaluate(len(truth["images"]) - 2)


def saved(folder: Path, kind: str) -> list[dict]:
    """A saved prediction file; without boxes for masks, whose areas then count."""
    found = json.loads((folder / f"found.{kind}.json").read_text())
    if kind == "segm":
        found = [{k: v for k, v in entry.items() if k != "bbox"} for entry in found]
    return found


def by_pycocotools(folder: Path, kind: str) -> list[float]:
    """mAP, mAP_50, mAP_75, and mAP of small, medium and large objects."""
    truth = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(saved(folder, kind)), kind)
    evaluation.params.maxDets = [100, 300, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_figures(evaluated, kind):
    folder, reported = evaluated
    truth = json.loads((folder / "truth.json").read_text())
    defined = coco_metrics(truth, saved(folder, kind), kind, LIMITS)
    theirs = dict(zip(NAMES, by_pycocotools(folder, kind), strict=True))
    assert theirs == pytest.approx(defined, abs=1e-12)
    assert {n: reported[f"coco/{kind}_{n}"] for n in NAMES} == {
        name: round(value, 3) for name, value in theirs.items()
    }
    assert all(0.1 < value < 0.9 for value in defined.values()), defined  # no figure is trivial


def test_what_the_saved_predictions_try(evaluated):
    """Ties, duplicates, images without objects, without detections, with more than count."""
    folder, _ = evaluated
    truth, found = json.loads((folder / "truth.json").read_text()), saved(folder, "bbox")
    assert len({d["score"] for d in found}) < len(found) / 20
    ids = [image["id"] for image in truth["images"]]
    assert set(ids) - {d["image_id"] for d in found} == {ids[2], ids[-2], ids[-1]}
    assert set(ids) - {a["image_id"] for a in truth["annotations"]} == {ids[4], ids[9]}
    assert {a["iscrowd"] for a in truth["annotations"]} == {0, 1}
    assert len({tuple(d["bbox"]) for d in found}) < len(found)
    of_class = [(d["image_id"], d["category_id"]) for d in found]
    assert max(map(of_class.count, set(of_class))) > 100
    few = coco_metrics(truth, found, "bbox", dict.fromkeys(NAMES, 100))
    assert few != coco_metrics(truth, found, "bbox", LIMITS)


def test_masks_are_decoded_as_pycocotools_does():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (5, 3), (64, 48), (300, 260)):
        mask = ellipse(random_boxes(rng, 1)[0])[: shape[0], : shape[1]] if shape[0] < 65 else None
        mask = rng.random(shape) < 0.01 if mask is None else mask
        compressed = coco_masks.encode(np.asfortranarray(mask, np.uint8))
        compressed["counts"] = compressed["counts"].decode()
        assert np.array_equal(decode(compressed), mask)
        assert np.array_equal(decode(encode(mask)), mask)


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory):
    """Saved label maps of 6 classes, 255 where nothing is known: (truth, prediction) of 8 images.

    Class 4 is predicted and never there, class 5 neither; one image is unknown throughout.
    """
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("maps")
    pairs = []
    for index in range(8):
        shape = tuple(rng.integers(20, 60, 2))
        truth = rng.choice([0, 1, 2, 3, 255], shape, p=[0.5, 0.3, 0.1, 0.02, 0.08])
        truth[:, :3] = 255 if index != 1 else 0
        guess = rng.integers(0, 5, shape)
        found = np.where((rng.random(shape) < 0.7) & (truth != 255), truth, guess)
        pairs.append((truth if index else np.full(shape, 255), found))
    np.savez(folder / "maps.npz", *[array for pair in pairs for array in pair])
    with np.load(folder / "maps.npz") as arrays:
        return [(arrays[f"arr_{2 * i}"], arrays[f"arr_{2 * i + 1}"]) for i in range(8)]


def test_segmentation_figures(label_maps):
    config = load_config(FOLDER / "segmentation/vmamba/upernet_vmamba_tiny_s1l8_160k_ade20k.py")
    evaluator = dict(config.test_evaluator, iou_metrics=["mIoU", "mDice"])
    with DefaultScope.overwrite_default_scope("mmseg"):
        metric = METRICS.build(evaluator)
    metric.dataset_meta = {"classes": tuple("abcdef")}
    for truth, found in label_maps:
        sample = {"gt_sem_seg": truth, "pred_sem_seg": found}
        sample = {k: {"data": torch.from_numpy(v)[None]} for k, v in sample.items()}
        metric.process({}, [sample])
    reported = metric.evaluate(len(label_maps))
    truth, found = zip(*label_maps, strict=True)
    defined = iou_metrics(truth, found, classes=6, ignore=255)
    assert reported == pytest.approx(defined, abs=0.005 + 1e-6)  # two decimals are reported
    assert all(5 < value < 95 for value in defined.values()), defined


def test_segmentation_definition_by_confusion_matrix(label_maps):
    truth, found = (np.concatenate([a.ravel() for a in m]) for m in zip(*label_maps, strict=True))
    known = truth != 255
    counts = confusion_matrix(truth[known], found[known], labels=range(5))  # class 5 is nowhere
    right, there, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    expected = {
        "aAcc": right.sum() / counts.sum(),
        "mIoU": (right / (there + said - right)).mean(),
        "mAcc": (right[:4] / there[:4]).mean(),
        "mDice": (2 * right / (there + said)).mean(),
    }
    defined = iou_metrics(*zip(*label_maps, strict=True), classes=6, ignore=255)
    assert defined == pytest.approx({k: 100 * v for k, v in expected.items()}, abs=1e-9)
