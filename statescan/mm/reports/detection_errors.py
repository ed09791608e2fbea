"""Where a detector or instance segmenter errs: by class, between classes, in which images."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import supervision as sv
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from supervision.metrics import MetricTarget

from ..errors import InputError
from ..inference.media import read_image
from .drawing import Painter

BACKGROUND = "background"
MATCH = 0.5  # IoU above which a prediction and an object are the same thing
ALL = slice(None)
# Column → (IoU thresholds, area range) in COCO's table of precisions.
COLUMNS = {
    "AP": (ALL, 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "AP_small": (ALL, 1),
    "AP_medium": (ALL, 2),
    "AP_large": (ALL, 3),
}


class DetectionErrors:
    """Predictions beside the annotations of a dataset in COCO's form.

    Args:
        dataset: MMDetection's CocoDataset, or one derived from it, for testing.
        predictions: COCO result file; with masks, those are judged, else the boxes.
        threshold: Predictions with less score count in no confusion and no image's F1.

    Attributes:
        names: Rows and columns of ``confusion``: the classes, and the background.
        confusion: (classes + 1, classes + 1) counts, truth in rows. A prediction and an object
            whose IoU is above 0.5 are a match, of the same class first, then by IoU; what matches
            nothing stands in the background's row or column. Crowds are left out.
        scores: (images,) F1 of each image; 1 where there is nothing to find and nothing found.

    Raises:
        InputError: The file is missing, no COCO result, or of other data.
    """

    def __init__(self, dataset, predictions: str | Path, threshold: float = 0.3):
        self.dataset, self.threshold = dataset, threshold
        results = read_results(predictions)
        self.masks = any("segmentation" in entry for entry in results)
        with redirect_stdout(io.StringIO()):
            self.truth = COCO(dataset.ann_file)
            self.classes = [self.truth.cats[number]["name"] for number in dataset.cat_ids]
            check_results(predictions, results, self.truth)
            self.found = load_results(self.truth, results, self.masks)
        self.names = (*self.classes, BACKGROUND)
        self.infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        counts = [self._confusion(info["img_id"]) for info in self.infos]
        self.confusion = np.sum(counts, axis=0)
        self.scores = np.array([f1(count) for count in counts])
        self.notes = [describe(count) for count in counts]

    def metrics(self) -> dict:
        """``"all"`` and ``"classes"``: COCO's average precisions, None where nothing is to find."""
        evaluator = COCOeval(self.truth, self.found, "segm" if self.masks else "bbox")
        evaluator.params.catIds = list(self.dataset.cat_ids)
        evaluator.params.imgIds = [info["img_id"] for info in self.infos]
        with redirect_stdout(io.StringIO()):
            evaluator.evaluate()
            evaluator.accumulate()
        precisions = evaluator.eval["precision"][..., -1]  # (IoUs, recalls, classes, areas)
        position = {number: k for k, number in enumerate(sorted(self.dataset.cat_ids))}
        by_class = {
            name: average_precisions(precisions[:, :, position[number]])
            for name, number in zip(self.classes, self.dataset.cat_ids, strict=True)
        }
        return {"all": average_precisions(precisions), "classes": by_class}

    def draw(self, index: int, painter: Painter) -> tuple[np.ndarray, np.ndarray]:
        """Image ``index`` with the truth and with the predictions, (H, W, 3) BGR."""
        info = self.infos[index]
        image = read_image(info["img_path"])
        truth, found = self._truth(info["img_id"]), self._found(info["img_id"])
        return painter.instances(image, truth), painter.instances(image, found)

    def _confusion(self, image_id: int) -> np.ndarray:
        target = MetricTarget.MASKS if self.masks else MetricTarget.BOXES
        return sv.ConfusionMatrix.from_detections(
            [self._found(image_id)],
            [self._truth(image_id)],
            self.classes,
            conf_threshold=self.threshold,
            iou_threshold=MATCH,
            metric_target=target,
        ).matrix

    def _truth(self, image_id: int) -> sv.Detections:
        entries = self.truth.imgToAnns[image_id]
        return self._detections(self.truth, [e for e in entries if not e.get("iscrowd")])

    def _found(self, image_id: int) -> sv.Detections:
        entries = [e for e in self.found.imgToAnns[image_id] if e["score"] >= self.threshold]
        found = self._detections(self.found, entries)
        found.confidence = np.array([entry["score"] for entry in entries], dtype=np.float32)
        return found

    def _detections(self, coco: COCO, entries: list[dict]) -> sv.Detections:
        """Entries of the dataset's classes."""
        label = self.dataset.cat2label
        entries = [entry for entry in entries if entry["category_id"] in label]
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        masks = [coco.annToMask(entry).astype(bool) for entry in entries] if self.masks else ()
        return sv.Detections(
            sv.xywh_to_xyxy(boxes),
            mask=np.stack(masks) if len(masks) else None,
            class_id=np.array([label[entry["category_id"]] for entry in entries], dtype=int),
        )


def read_results(path: str | Path) -> list[dict]:
    """The entries of a COCO result file.

    Raises:
        InputError: The file is missing or something else.
    """
    try:
        results = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"predictions {str(path)!r} cannot be read: {error}") from error
    whole = isinstance(results, list) and all(
        isinstance(entry, dict)
        and {"image_id", "category_id", "score"} <= entry.keys()
        and {"bbox", "segmentation"} & entry.keys()
        for entry in results
    )
    if not whole:
        raise InputError(
            f"predictions {str(path)!r} are no COCO results: expected a list of objects with "
            "image_id, category_id, score, and bbox or segmentation"
        )
    return results


def check_results(path: str | Path, results: list[dict], truth: COCO) -> None:
    """Refuse results of other data.

    Raises:
        InputError: Names an image or category that the annotations lack.
    """
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        other = next((entry[key] for entry in results if entry[key] not in known), None)
        if other is not None:
            raise InputError(
                f"predictions {str(path)!r} are of other data: no annotations have {key} {other}"
            )


def load_results(truth: COCO, results: list[dict], masks: bool) -> COCO:
    """Results as pycocotools takes them; areas are those of the masks where there are masks."""
    if results:
        dropped = {"bbox"} if masks else set()
        return truth.loadRes([{k: e[k] for k in e.keys() - dropped} for e in results])
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def average_precisions(precisions: np.ndarray) -> dict[str, float | None]:
    """COCO's figures of precisions (IoUs, recalls, ..., areas), where -1 stands for none."""
    figures = {}
    for name, (ious, area) in COLUMNS.items():
        chosen = precisions[ious, ..., area]
        chosen = chosen[chosen > -1]
        figures[name] = float(chosen.mean()) if chosen.size else None
    return figures


def f1(counts: np.ndarray) -> float:
    """F1 of (classes + 1, classes + 1) counts with the background last."""
    right = np.trace(counts[:-1, :-1])
    total = counts[:-1].sum() + counts[:, :-1].sum()
    return float(2 * right / total) if total else 1.0


def describe(counts: np.ndarray) -> str:
    """An image's F1 and errors in words."""
    inside = counts[:-1, :-1]
    missed, invented = counts[:-1, -1].sum(), counts[-1, :-1].sum()
    confused = inside.sum() - np.trace(inside)
    return f"F1 {f1(counts):.2f}: {missed} missed, {invented} invented, {confused} confused"
