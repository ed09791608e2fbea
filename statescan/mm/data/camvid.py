"""CamVid's street scenes for MMSegmentation, and the IoU of each class by name.

A config asks for this file: ``custom_imports = dict(imports=["statescan.mm.data.camvid"])``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, METRICS

VOID, IGNORED = 11, 255


@DATASETS.register_module()
class CamVid(BaseSegDataset):
    """CamVid in 11 classes, 480x360 pixels: JPEG images, PNG class numbers.

    Void, number 11 in the files, becomes the number that MMSegmentation leaves out of losses and
    metrics.

    Args:
        **kwargs: Arguments of MMSegmentation's ``BaseSegDataset``; ``data_prefix`` is the split.
    """

    METAINFO: ClassVar[dict] = {
        "classes": (
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "bicyclist"),
        ),
        "palette": [
            *([128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222]),
            *([128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0]),
            [0, 128, 192],
        ],
    }

    @classmethod
    def get_label_map(cls, new_classes=None) -> dict[int, int]:
        """Numbers in the files that are to be read as others."""
        return {VOID: IGNORED}


@METRICS.register_module()
class ClasswiseIoU(IoUMetric):
    """``IoUMetric``, with ``IoU/CLASS`` of each class too: percent, NaN of a class not there."""

    default_prefix = ""

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Metrics by name, from each image's (intersections, unions, ...) of the classes."""
        shared, union = (
            torch.stack(areas).sum(0) for areas in list(zip(*results, strict=True))[:2]
        )
        metrics = super().compute_metrics(results)
        for name, value in zip(self.dataset_meta["classes"], shared / union, strict=True):
            metrics[f"IoU/{name}"] = round(100 * value.item(), 2)
        return {name: float(value) for name, value in metrics.items()}
