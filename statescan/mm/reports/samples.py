"""Datasets of a config, and their samples as a model gets them in training."""

from __future__ import annotations

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.runner import set_random_seed

from ..data.root import check_data
from ..errors import InputError
from ..inference.predictor import building, in_scope
from .drawing import Painter


def build_dataset(config: Config, split: str) -> BaseDataset:
    """The dataset of a config's loader: of ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        InputError: The config has no such data, or they are not where it says.
    """
    loader = config.get(f"{split}_dataloader")
    check_data(config, f"{split}_dataloader")
    if not loader:
        raise InputError(f"the config has no {split}_dataloader")
    try:
        with building(config):
            return DATASETS.build(loader.dataset)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        empty = "need at least one array" in str(error)  # what MMEngine makes of no images
        reason = "there are no images in its folder" if empty else error
        raise InputError(f"data of the config's {split}_dataloader: {reason}") from error


def draw_samples(config: Config, number: int, seed: int = 0) -> list[np.ndarray]:
    """Training samples with their annotations drawn in, after the pipeline's augmentation.

    Args:
        config: Of a detector or segmenter.
        number: How many samples, chosen at random; at most all.
        seed: Of the choice and of the augmentation.

    Returns:
        (H, W, 3) uint8 BGR images, each of the size that the pipeline gave it.

    Raises:
        InputError: The data are missing, or have no boxes, masks or label maps.
    """
    dataset = build_dataset(config, "train")
    meta = dataset.metainfo
    painter = Painter(meta.get("classes", ()), meta.get("palette"))
    set_random_seed(seed)
    chosen = np.random.permutation(len(dataset))[:number]
    with in_scope(config):
        return [_draw_sample(painter, dataset[int(index)]) for index in chosen]


def _draw_sample(painter: Painter, sample: dict) -> np.ndarray:
    if "data_samples" not in sample:
        raise InputError("the config's training data have no boxes, masks or label maps")
    pixels = sample["inputs"].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
    return painter.truth(np.ascontiguousarray(pixels), sample["data_samples"])
