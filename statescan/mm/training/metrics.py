"""Classification metrics of torchmetrics for MMEngine's evaluator."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from ...errors import nearest
from ...files import atomic_write
from ..errors import InputError


def _accuracy(scores: Tensor, labels: Tensor, top_k: int = 1, average: str = "micro") -> Tensor:
    from torchmetrics.functional.classification import multiclass_accuracy

    return multiclass_accuracy(
        scores, labels, num_classes=scores.shape[1], top_k=top_k, average=average
    )


def _roc_auc(scores: Tensor, labels: Tensor) -> Tensor:
    from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

    if scores.shape[1] == 2:
        return binary_auroc(scores[:, 1], labels)
    return multiclass_auroc(scores, labels, num_classes=scores.shape[1])


METRIC_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "top1": _accuracy,
    "top5": partial(_accuracy, top_k=5),
    "balanced_accuracy": partial(_accuracy, average="macro"),
    "roc_auc": _roc_auc,
}


def compute(names: Sequence[str], scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics by name of (images, classes) ``scores`` against (images,) ``labels``."""
    return {name: METRIC_FUNCTIONS[name](scores, labels).item() for name in names}


def write_npz(prefix: str, **arrays: np.ndarray) -> None:
    """Write arrays to ``prefix.npz``, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic_write(f"{prefix}.npz", buffer.getvalue())


@METRICS.register_module()
class ClassificationMetric(BaseMetric):
    """Metrics of class scores against class numbers.

    Args:
        names: Names out of :data:`METRIC_FUNCTIONS`. ``roc_auc`` is that of class 1 where there
            are two classes, the mean over classes one against the rest where there are more.
        predictions: Write scores and labels to this path with ``.npz`` after it; None for no file.

    Raises:
        InputError: A name is unknown.

    Attributes:
        scores: (images, classes) scores of the last evaluation, on rank 0.
        labels: (images,) their class numbers.
    """

    default_prefix = ""

    def __init__(self, names: Sequence[str] = ("top1",), predictions: str | None = None):
        # "gpu" is MMEngine's word for the process group, which gloo serves on CPU as well; its
        # "cpu" passes results through files in a folder that all machines must share.
        super().__init__(collect_device="gpu")
        for name in names:
            if name not in METRIC_FUNCTIONS:
                raise InputError(f"there is no metric {name!r}: {nearest(name, METRIC_FUNCTIONS)}")
        self.names, self.predictions = tuple(names), predictions
        self.scores = self.labels = torch.empty(0)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the scores and label of each image of a batch."""
        self.results.extend((s["scores"].cpu().numpy(), int(s["label"])) for s in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Each metric over all ``(scores, label)`` pairs."""
        self.scores = torch.stack([torch.from_numpy(scores) for scores, _ in results])
        self.labels = torch.tensor([label for _, label in results])
        if self.predictions:
            write_npz(self.predictions, scores=self.scores.numpy(), labels=self.labels.numpy())
        return compute(self.names, self.scores, self.labels)
