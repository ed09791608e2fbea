"""Average precision of COCO and IoU of label maps, written from their definitions in numpy.

Slow and plain: one class, one area range, one IoU threshold and one image at a time. Nothing is
shared with pycocotools; even masks are decoded here.
"""

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"": (0, 1e10), "_s": (0, 32**2), "_m": (32**2, 96**2), "_l": (96**2, 1e10)}


def coco_metrics(truth: dict, found: list[dict], kind: str, limits: dict[str, int]) -> dict:
    """mAP, mAP_50, mAP_75 and mAP of small, medium and large objects.

    Args:
        truth: A COCO annotation file; masks are lists of counts.
        found: A COCO result file.
        kind: ``"bbox"`` or ``"segm"``.
        limits: How many detections of each image and class count, for each metric.
    """
    choices = {f"mAP{name}": (THRESHOLDS, area) for name, area in AREAS.items()}
    choices |= {f"mAP_{round(100 * t)}": ([t], AREAS[""]) for t in THRESHOLDS[[0, 5]]}
    return {
        name: _mean_precision(truth, found, kind, thresholds, area, limits[name])
        for name, (thresholds, area) in choices.items()
    }


def _mean_precision(truth, found, kind, thresholds, area, limit) -> float:
    """Mean over thresholds and the classes that have an object in the range; -1 without any."""
    values = []
    for category in truth["categories"]:
        images = [
            _Image(
                [a for a in truth["annotations"] if _is(a, image, category)],
                [d for d in found if _is(d, image, category)],
                kind,
                limit,
            )
            for image in truth["images"]
        ]
        values += [_average_precision([i.match(t, area) for i in images]) for t in thresholds]
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else -1.0


def _is(entry: dict, image: dict, category: dict) -> bool:
    return entry["image_id"] == image["id"] and entry["category_id"] == category["id"]


class _Image:
    """Objects and detections of one class in one image."""

    def __init__(self, objects: list[dict], detections: list[dict], kind: str, limit: int):
        detections = sorted(detections, key=lambda d: -d["score"])[:limit]  # stable: ties in order
        self.scores = [d["score"] for d in detections]
        self.crowd = [bool(o["iscrowd"]) for o in objects]
        self.object_areas = [o["area"] for o in objects]
        shapes, areas, overlap = _FORMS[kind]
        theirs, ours = shapes(objects), shapes(detections)
        self.areas, object_sizes = areas(ours), areas(theirs)
        common = overlap(ours, theirs)
        union = self.areas[:, None] + object_sizes - common
        # A crowd is many objects in one: a detection need only lie inside.
        self.ious = common / np.where(self.crowd, self.areas[:, None], union)

    def match(self, threshold: float, area: tuple[float, float]) -> tuple[list, int]:
        """Pairs (score, is right) of the detections that count, and the number of objects.

        From the highest score on, each detection takes the best object that is left; one that
        counts before one that does not, and the last of equal ones. What takes an object that does
        not count (a crowd, another size), or takes none and is of another size, does not count.
        """
        ignored = [
            crowd or not area[0] <= size <= area[1]
            for crowd, size in zip(self.crowd, self.object_areas, strict=True)
        ]
        taken, judged = set(), []
        for row, (score, size) in enumerate(zip(self.scores, self.areas, strict=True)):
            free = [
                (not ignored[j], self.ious[row, j], j)
                for j in range(len(ignored))
                if self.ious[row, j] >= threshold and (j not in taken or self.crowd[j])
            ]
            if free:
                counts, _, j = max(free)
                taken.add(j)
                if counts:
                    judged.append((score, True))
            elif area[0] <= size <= area[1]:
                judged.append((score, False))
        return judged, ignored.count(False)


def _average_precision(images: list[tuple[list, int]]) -> float | None:
    """Mean over 101 recalls of the highest precision that is reached at that recall or beyond."""
    objects = sum(count for _, count in images)
    if not objects:
        return None
    judged = sorted((pair for pairs, _ in images for pair in pairs), key=lambda pair: -pair[0])
    right = np.cumsum([is_right for _, is_right in judged])
    precision, recall = right / np.arange(1, len(judged) + 1), right / objects
    return float(np.mean([precision[recall >= r].max(initial=0) for r in RECALLS]))


def _boxes(entries: list[dict]) -> np.ndarray:
    return np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)


def _box_areas(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2] * boxes[:, 3]


def _box_overlap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Common areas (N, M) of boxes (N, 4) and (M, 4): x, y, width, height."""
    ours, theirs = ours[:, None], theirs[None]
    low = np.maximum(ours[..., :2], theirs[..., :2])
    high = np.minimum(ours[..., :2] + ours[..., 2:], theirs[..., :2] + theirs[..., 2:])
    return (high - low).clip(0).prod(-1)


def _masks(entries: list[dict]) -> list[np.ndarray]:
    return [decode(entry["segmentation"]).astype(float).ravel() for entry in entries]


def _mask_areas(masks: list[np.ndarray]) -> np.ndarray:
    return np.array([mask.sum() for mask in masks])


def _mask_overlap(ours: list[np.ndarray], theirs: list[np.ndarray]) -> np.ndarray:
    common = [[mask @ other for other in theirs] for mask in ours]
    return np.array(common).reshape(len(ours), len(theirs))


_FORMS = {
    "bbox": (_boxes, _box_areas, _box_overlap),
    "segm": (_masks, _mask_areas, _mask_overlap),
}


def decode(mask: dict) -> np.ndarray:
    """A run-length mask as (H, W) booleans: runs of 0 and 1 in turn, column by column."""
    runs = mask["counts"] if isinstance(mask["counts"], list) else _runs(mask["counts"])
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(mask["size"], order="F")


def encode(mask: np.ndarray) -> dict:
    """Uncompressed run-length form of (H, W) booleans."""
    values = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(values, prepend=0))
    runs = np.diff(changes, prepend=0, append=values.size).tolist()
    return {"size": list(mask.shape), "counts": runs}


def _runs(text: str) -> list[int]:
    """Numbers of COCO's compressed form: five bits a character from 48 on, the sixth for "more".

    The lowest bits come first; the last bit of a number is its sign; from the fourth number on,
    they are differences from the number two before.
    """
    runs, value, shift = [], 0, 0
    for bits in (ord(character) - 48 for character in text):
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs


def iou_metrics(
    truth: list[np.ndarray], found: list[np.ndarray], classes: int, ignore: int
) -> dict:
    """aAcc, mIoU, mAcc and mDice in percent of label maps, all images' pixels together.

    Truth and prediction are lists of (H, W) label maps; pixels whose truth is ``ignore`` are left
    out. A class that no pixel has, in truth or prediction, has no IoU and Dice, one that is not in
    the truth has no accuracy, and the means leave those out.
    """
    kept = [(t != ignore) for t in truth]
    t = np.concatenate([a[k] for a, k in zip(truth, kept, strict=True)])
    p = np.concatenate([a[k] for a, k in zip(found, kept, strict=True)])
    ious, accuracies, dices = [], [], []
    for c in range(classes):
        both, either = ((t == c) & (p == c)).sum(), ((t == c) | (p == c)).sum()
        if either:
            ious.append(both / either)
            dices.append(2 * both / ((t == c).sum() + (p == c).sum()))
        if (t == c).any():
            accuracies.append(both / (t == c).sum())
    means = {"aAcc": (t == p).mean(), "mIoU": np.mean(ious), "mAcc": np.mean(accuracies)}
    return {k: 100 * float(v) for k, v in (means | {"mDice": np.mean(dices)}).items()}
