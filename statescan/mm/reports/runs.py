"""Trainings to compare: finished where they are not, and their predictions of samples."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ..checkpoints.files import latest_checkpoint
from ..errors import InputError
from ..inference.media import read_image
from ..inference.predictor import Predictor, in_scope
from ..training.launch import train
from .drawing import SmallPainter
from .samples import build_dataset


class Run(NamedTuple):
    """A finished training: its config, last checkpoint and HistoryHook's history."""

    config: Config
    checkpoint: Path
    history: list[dict]


def finish(config: Config) -> Run:
    """Train as a config says, on from what is in its work folder, be it nothing or all.

    Args:
        config: From :func:`load_config`; not changed.

    Raises:
        InputError: Data, model or checkpoint are missing or wrong, or the config lacks HistoryHook.
    """
    history = train(deepcopy(config), resume="auto").message_hub.get_info("history")
    if not history:
        raise InputError(f"{config.filename} has no HistoryHook: there is nothing to compare")
    return Run(config, latest_checkpoint(config.work_dir), history)


class Shown(NamedTuple):
    """What a trained model is and sees.

    ``parameters`` is their number; ``truth`` and ``predicted`` are images (H, W, 3) uint8, BGR.
    """

    parameters: int
    truth: list[np.ndarray]
    predicted: list[np.ndarray]


def show_run(run: Run, count: int) -> Shown:
    """Draw ``count`` test samples of a training, evenly spaced, with truth and with prediction."""
    predictor = Predictor(run.config, run.checkpoint)
    dataset = build_dataset(run.config, "test")
    meta = dataset.metainfo
    painter = SmallPainter(meta.get("classes", ()), meta.get("palette"), threshold=0.5)
    numbers = np.linspace(0, len(dataset) - 1, count + 2)[1:-1].round().astype(int)
    with torch.inference_mode(), in_scope(run.config):  # one by one: sizes may differ
        batches = [pseudo_collate([dataset[int(number)]]) for number in numbers]
        samples = [predictor.model.test_step(batch)[0].cpu() for batch in batches]
    images = [read_image(sample.img_path) for sample in samples]
    return Shown(
        sum(parameter.numel() for parameter in predictor.model.parameters()),
        [painter.truth(*shown) for shown in zip(images, samples, strict=True)],
        [painter.prediction(*shown) for shown in zip(images, samples, strict=True)],
    )
