"""Annotations that do not fit the config: refused by name, before training where they can be.

MMDetection drops objects of a category that it does not know, and MMSegmentation's losses fail on a
label that is no class: on a GPU with an assertion that names nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...errors import nearest
from ..errors import InputError
from .loading import with_inner

HEADS = ("bbox_head", "mask_head", "decode_head", "auxiliary_head")


def check_categories(path: str | Path, classes: Sequence[str]) -> None:
    """Check a COCO annotation file against itself and the classes of a dataset.

    Args:
        path: The file.
        classes: Names of the classes in the order of their numbers.

    Raises:
        InputError: An object's category is none of the file's, a class is no category of the file,
            or the classes are in another order.
    """
    content = json.loads(Path(path).read_bytes())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for entry in content.get("annotations", ()):
        if entry.get("category_id") not in names:
            raise InputError(
                f"{path}: annotation {entry.get('id')} has category_id {entry.get('category_id')}, "
                f"expected one of the file's categories: {', '.join(map(str, sorted(names)))}"
            )
    for name in classes:
        if name not in names.values():
            raise InputError(
                f"{path} has no category {name!r}, a class of the dataset: "
                f"{nearest(name, names.values())}"
            )
    order = [name for name in names.values() if name in classes]
    if order != list(classes):
        raise InputError(
            f"{path} has its categories in the order {', '.join(order)}, the dataset its classes "
            f"in the order {', '.join(classes)}: MMDetection numbers them as the file does"
        )


def check_heads(model: nn.Module, classes: Sequence[str]) -> None:
    """Check that heads have as many classes as the data.

    Raises:
        InputError: A head has more or fewer.
    """
    for name, head in _heads(model):
        if head.num_classes != len(classes):
            raise InputError(
                f"model.{name}.num_classes is {head.num_classes}, but the training data have "
                f"{len(classes)} classes: {', '.join(classes[:5])}{', ...' * (len(classes) > 5)}"
            )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Heads that tell classes apart, with their names."""
    for name, module in model.named_modules():
        parts = [part for part in name.split(".") if not part.isdigit()]
        if parts and parts[-1] in HEADS and isinstance(getattr(module, "num_classes", None), int):
            yield name, module


def check_labels(samples: Sequence[Any], head: nn.Module) -> None:
    """Check the label maps of a batch.

    Args:
        samples: MMSegmentation's samples, with ``gt_sem_seg.data`` (1, H, W).
        head: Decode head, with ``num_classes`` and ``ignore_index``.

    Raises:
        InputError: A pixel has a label that is neither a class nor ignored.
    """
    for sample in samples:
        labels = sample.gt_sem_seg.data
        wrong = labels[(labels >= head.num_classes) & (labels != head.ignore_index)]
        if wrong.numel():
            first = int(bool(sample.get("reduce_zero_label")))  # as the file has it, before that
            raise InputError(
                f"label map {sample.get('seg_map_path', '(unnamed)')!r} has the label "
                f"{wrong.max().item() + first}, expected {first} to "
                f"{head.num_classes - 1 + first}, or {head.ignore_index} where nothing is known"
            )


def _coco_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets of COCO files in a dataset."""
    for part in with_inner(dataset):
        local = str(getattr(part, "ann_file", "")).endswith(".json")
        if local and hasattr(part, "cat2label") and Path(part.ann_file).is_file():
            yield part


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Checks categories and numbers of classes when training starts, and labels as they come."""

    def before_train(self, runner: Runner) -> None:
        """Check the annotation files, each once, and the heads.

        Raises:
            InputError: They do not fit.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        metainfo = getattr(runner.train_dataloader.dataset, "metainfo", {})
        if metainfo.get("classes"):
            check_heads(model, metainfo["classes"])
        head = getattr(model, "decode_head", None)
        self.head = head[-1] if isinstance(head, nn.ModuleList) else head
        loaders = [runner.train_dataloader] + ([runner.val_dataloader] if runner.val_loop else [])
        if is_main_process():
            self._check_files([loader.dataset for loader in loaders])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Check the label maps of a batch, while they are still on the CPU."""
        if hasattr(self.head, "ignore_index"):
            check_labels(data_batch["data_samples"], self.head)

    def _check_files(self, datasets: list[Any]) -> None:
        found = [coco for dataset in datasets for coco in _coco_datasets(dataset)]
        for path, classes in dict.fromkeys(
            (d.ann_file, tuple(d.metainfo["classes"])) for d in found
        ):
            check_categories(path, classes)
