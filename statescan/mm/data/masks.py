"""Images with binary masks for MMSegmentation: ISIC's folders, transforms, foreground metrics.

A config asks for this file, which needs mmseg:
``custom_imports=dict(imports=["statescan.mm", "statescan.mm.data.masks"])``.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmengine.registry import DATASETS, METRICS, TRANSFORMS
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric

from ..errors import InputError
from .classification import _existing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_ENDING = "_segmentation"  # of the masks' names in the ISIC challenges' own files


@DATASETS.register_module()
class MaskFolders(BaseSegDataset):
    """A folder of images and one of binary masks, as ISIC 2017 and 2018 are laid out for VM-UNet.

    Each image has a mask of its name, perhaps followed by ``_segmentation``. For other objects than
    lesions give ``metainfo=dict(classes=("background", "nucleus"), palette=...)``.

    Args:
        **kwargs: Arguments of mmseg's ``BaseSegDataset``; ``data_prefix`` names the two folders,
            such as ``dict(img_path="train/images", seg_map_path="train/masks")``.

    Raises:
        InputError: A folder does not exist or is empty, or an image or mask has no partner.
    """

    METAINFO: ClassVar[dict] = {
        "classes": ("background", "lesion"),
        "palette": [[0, 0, 0], [255, 255, 255]],
    }

    @classmethod
    def get_label_map(cls, new_classes=None) -> dict[int, int]:
        """Numbers in the files that stand for another one; other classes are other names alone."""
        return {255: 1}

    def load_data_list(self) -> list[dict]:
        """Paths of every image and its mask, by name."""
        images, masks = (
            files_by_name(Path(self.data_prefix[key])) for key in ("img_path", "seg_map_path")
        )
        _check_partners(images, masks, "mask")
        _check_partners(masks, images, "image")
        common = {"label_map": self.label_map, "reduce_zero_label": False}
        return [
            {"img_path": str(images[k]), "seg_map_path": str(masks[k]), "seg_fields": [], **common}
            for k in sorted(images)
        ]


def files_by_name(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their names without suffix and ``_segmentation``.

    Raises:
        InputError: There is no such folder, no image in it, or two of one name.
    """
    files = [p for p in _existing(folder, "data folder").iterdir() if p.suffix.lower() in SUFFIXES]
    named = {path.stem.removesuffix(MASK_ENDING): path for path in files}
    if not files:
        raise InputError(f"data folder {str(folder)!r} has no images ({', '.join(SUFFIXES)})")
    if len(named) < len(files):
        double = next(path for path in files if path not in named.values())
        raise InputError(f"data folder {str(folder)!r} has two files of the name {double.stem!r}")
    return named


def _check_partners(files: dict[str, Path], others: dict[str, Path], wanted: str) -> None:
    alone = sorted(files.keys() - others.keys())
    if alone:
        folder = str(next(iter(others.values())).parent)
        raise InputError(
            f"{len(alone)} files have no {wanted} of their name in {folder!r},"
            f" {str(files[alone[0]])!r} the first"
        )


@TRANSFORMS.register_module()
class CheckMask(BaseTransform):
    """Refuse what is no binary mask of its image; stands behind ``LoadAnnotations``.

    Raises:
        InputError: The mask is not of its image's size, or has other values than 0 and 1 (after
            `MaskFolders` has made a 1 of 255).
    """

    def transform(self, results: dict) -> dict:
        """Check ``gt_seg_map`` (H, W), where there is one."""
        mask = results.get("gt_seg_map")
        if mask is None:
            return results
        name, size = results.get("seg_map_path", "gt_seg_map"), results["img"].shape[:2]
        if mask.shape != size:
            raise InputError(f"mask {name} has shape {mask.shape}, its image has {size}")
        if mask.max() > 1:
            raise InputError(
                f"mask {name} has the value {mask[mask > 1].max()}, expected 0 for the background"
                " and 1 or 255 for the foreground"
            )
        return results


@TRANSFORMS.register_module()
class StretchContrast(BaseTransform):
    """Scale an image so that its least value is 0 and its greatest 255, over all channels.

    This is what the authors' normalisation by a data set's mean and deviation, and then by the
    image's least and greatest value, comes to. An image of one value becomes 0.

    Source: MHS-VM, arXiv 2406.05992, after VM-UNet, arXiv 2402.02491.
    """

    def transform(self, results: dict) -> dict:
        """Scale ``img`` (H, W, C), in float32."""
        image = results["img"].astype(np.float32)
        low, high = image.min(), image.max()
        results["img"] = (image - low) * 255 / ((high - low) or 1)
        return results


@TRANSFORMS.register_module()
class ResizeWithMask(Resize):
    """mmcv's ``Resize``, after which a mask that was resized too is what predictions are scored by.

    mmseg scales predictions to ``ori_shape``, the size on disk; MHS-VM's figures are of masks
    resized with their images. An image without a mask keeps its ``ori_shape``.
    """

    def transform(self, results: dict) -> dict:
        """Resize all that ``Resize`` does."""
        results = super().transform(results)
        if "gt_seg_map" in results:
            results["ori_shape"] = results["img_shape"]
        return results


@METRICS.register_module()
class ForegroundMetric(IoUMetric):
    """mmseg's mIoU and mDice of two classes and, of the foreground, the figures MHS-VM reports.

    From all pixels of all images at once, in percent, NaN where there is nothing to divide by:
    ``IoU`` = TP / (TP + FP + FN), ``Dice`` = 2 TP / (2 TP + FP + FN), ``accuracy`` = (TP + TN) / N,
    ``sensitivity`` = TP / (TP + FN), ``specificity`` = TN / (TN + FP). The authors call that IoU
    mIoU; mmseg's ``mIoU`` is the mean of foreground and background.
    """

    default_prefix = ""

    def __init__(self, **kwargs):
        # "gpu" is MMEngine's word for the process group, see ClassificationMetric.
        super().__init__(iou_metrics=["mIoU", "mDice"], collect_device="gpu", **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """All figures, from each image's (intersection, union, predicted, labelled) pixel counts.

        Raises:
            InputError: The data set has more than two classes.
        """
        classes = self.dataset_meta["classes"]
        if len(classes) != 2:
            raise InputError(f"ForegroundMetric is of two classes, the data set has {classes}")
        right, _, predicted, labelled = np.sum(
            [[count.double().numpy() for count in counts] for counts in results], axis=0
        )
        metrics = {k: float(v) for k, v in super().compute_metrics(results).items()}
        return metrics | _foreground_figures(right, predicted, labelled)


def _foreground_figures(
    right: np.ndarray, predicted: np.ndarray, labelled: np.ndarray
) -> dict[str, float]:
    """Percentages from the pixel counts (2,) of background and foreground."""
    (tn, tp), (_, fp), (_, fn) = right, predicted - right, labelled - right
    shares = {
        "IoU": (tp, tp + fp + fn),
        "Dice": (2 * tp, 2 * tp + fp + fn),
        "accuracy": (tp + tn, labelled.sum()),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
    }
    return {
        name: 100 * part / all_ if all_ else float("nan") for name, (part, all_) in shares.items()
    }
