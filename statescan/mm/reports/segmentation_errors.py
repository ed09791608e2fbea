"""Where a semantic segmenter errs: by class, between classes, in which images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from PIL import Image

from ..errors import InputError
from ..inference.predictor import in_scope, loads, test_dataset
from .drawing import Painter
from .picture import confusion


class SegmentationErrors:
    """Predicted label maps beside those of a dataset.

    Args:
        dataset: MMSegmentation's BaseSegDataset, or one derived from it.
        predictions: Folder of PNG label maps, named as the images; where the dataset has
            ``reduce_zero_label``, class 0 is 1 in them, as MMSegmentation writes them.
        config: Of the dataset: its test pipeline says how labels are loaded.

    Attributes:
        names: Rows and columns of ``confusion``: the classes.
        confusion: (classes, classes) pixels, truth in rows, ignored pixels left out.
        scores: (images,) mean IoU of each image over the classes in its truth or prediction.

    Raises:
        InputError: A prediction is missing, of another size or of unknown classes, or a label is.
    """

    def __init__(self, dataset, predictions: str | Path, config: Config):
        self.dataset, self.folder = dataset, Path(predictions)
        self.names = self.classes = tuple(dataset.metainfo["classes"])
        self.ignored = _ignored(dataset, config)
        with in_scope(config):
            self.load = Compose([step for step in test_dataset(config).pipeline if loads(step)])
        self.infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        self._check_complete()
        self.confusion = np.zeros((len(self.names),) * 2, dtype=np.int64)
        self.scores = np.zeros(len(self.infos))
        for index in range(len(self.infos)):
            counts = self._confusion(index)
            self.confusion += counts
            self.scores[index] = np.nanmean(ious(counts)) if counts.any() else 1.0
        if not self.confusion.any():
            raise InputError(
                f"no pixel of the {len(self.infos)} images has a label to compare with"
            )
        self.notes = [f"mean IoU {score:.2f}" for score in self.scores]

    def metrics(self) -> dict:
        """``"all"`` and ``"classes"``: IoU and accuracy, None where a class has no pixel."""
        right, truth = np.diag(self.confusion), self.confusion.sum(axis=1)
        with np.errstate(invalid="ignore"):
            figures = {"IoU": ious(self.confusion), "accuracy": right / truth}
        everything = {name: float(np.nanmean(values)) for name, values in figures.items()}
        everything["pixel_accuracy"] = float(right.sum() / truth.sum())
        by_class = {
            name: {key: _finite(values[k]) for key, values in figures.items()}
            for k, name in enumerate(self.names)
        }
        return {"all": everything, "classes": by_class}

    def draw(self, index: int, painter: Painter) -> tuple[np.ndarray, np.ndarray]:
        """Image ``index`` with the truth and with the prediction, (H, W, 3) BGR."""
        image, truth = self._truth(index)
        predicted = self._predicted(index)
        return painter.label_map(image, truth), painter.label_map(image, predicted)

    def _confusion(self, index: int) -> np.ndarray:
        truth, predicted = self._truth(index)[1], self._predicted(index)
        if truth.shape != predicted.shape:
            raise InputError(
                f"prediction {self._path(index)} has {_size(predicted)} pixels, expected "
                f"{_size(truth)} as its image"
            )
        valid = ~np.isin(truth, list(self.ignored))
        truth, predicted = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
        for what, labels in (("label map", truth), ("prediction", predicted)):
            self._check_range(what, labels, index)
        return confusion(truth, predicted, len(self.names))

    def _truth(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and labels (H, W)."""
        loaded = self.load(dict(self.infos[index]))
        if "gt_seg_map" not in loaded:
            raise InputError("the config's test pipeline loads no label maps")
        return loaded["img"], loaded["gt_seg_map"]

    def _predicted(self, index: int) -> np.ndarray:
        labels = read_labels(self._path(index))
        return labels - 1 if self.dataset.reduce_zero_label else labels

    def _path(self, index: int) -> Path:
        return self.folder / f"{Path(self.infos[index]['img_path']).stem}.png"

    def _check_complete(self) -> None:
        paths = [self._path(index) for index in range(len(self.infos))]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(paths)} images have no prediction, such as {missing[0]}"
            )

    def _check_range(self, what: str, labels: np.ndarray, index: int) -> None:
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.names):
            raise InputError(
                f"{what} of image {self.infos[index]['img_path']} has classes {labels.min()} to "
                f"{labels.max()}, expected 0 to {len(self.names) - 1}"
            )


def ious(counts: np.ndarray) -> np.ndarray:
    """(classes,) IoU of (classes, classes) counts; NaN of a class without pixels in both."""
    right = np.diag(counts)
    with np.errstate(invalid="ignore"):
        return right / (counts.sum(axis=0) + counts.sum(axis=1) - right)


def read_labels(path: Path) -> np.ndarray:
    """(H, W) int64 class numbers of a PNG.

    Raises:
        InputError: The file is damaged, or has colours.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError) as error:
        raise InputError(f"prediction {str(path)!r} cannot be read: {error}") from error
    if labels.ndim != 2:
        raise InputError(f"prediction {str(path)!r} has colours, expected one number a pixel")
    return labels


def _ignored(dataset, config: Config) -> set[int]:
    """Labels that the dataset or the evaluators leave out."""
    evaluators = config.get("test_evaluator") or []
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
    return {dataset.ignore_index, *(one.get("ignore_index", 255) for one in evaluators)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _size(labels: np.ndarray) -> str:
    return f"{labels.shape[1]}x{labels.shape[0]}"
