"""Finished trainings in their work folders: configs, histories, and predictions of samples."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from .checkpoint import latest_checkpoint, read_training_checkpoint
from .errors import InputError
from .inference import Predictor, in_scope
from .launch import load_config
from .report import draw_prediction, draw_truth
from .samples import build_dataset


class Run(NamedTuple):
    """A training: its config, last checkpoint and HistoryHook's history up to that."""

    config: Config
    checkpoint: Path
    history: list[dict]

    @property
    def name(self) -> str:
        """What the backbone is called, such as ``vmamba_nano`` or ``ResNet-18``."""
        backbone = self.config.model.backbone
        return backbone.get("name") or f"{backbone.type}-{backbone.get('depth', '')}".rstrip("-")


def read_run(folder: str | Path, options: dict | None = None) -> Run:
    """The training that ``tools/train.py`` left in a work folder.

    Args:
        folder: With the config that MMEngine wrote, and checkpoints.
        options: Overrides by dotted key, as from ``--cfg-options``.

    Raises:
        InputError: There is no config, or more than one; or no checkpoint with a history.
    """
    configs = list(Path(folder).glob("*.py"))
    if len(configs) != 1:
        raise InputError(f"{folder} has {len(configs)} configs, expected that of one training")
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise InputError(f"{folder} has no checkpoint: train first")
    hub = read_training_checkpoint(checkpoint, required=("message_hub",))["message_hub"]
    history = hub.get("runtime_info", {}).get("history")
    if not history:
        raise InputError(f"{checkpoint} has no history: its config lacks HistoryHook")
    return Run(load_config(configs[0], str(folder), options), checkpoint, history)


class Shown(NamedTuple):
    """What a trained model is and sees.

    ``parameters`` is their number; ``truth`` and ``predicted`` are images (H, W, 3) uint8, RGB.
    """

    parameters: int
    truth: list[np.ndarray]
    predicted: list[np.ndarray]


def show_run(run: Run, count: int) -> Shown:
    """Draw ``count`` test samples of a training, evenly spaced, with truth and with prediction."""
    predictor = Predictor(run.config, run.checkpoint)
    dataset = build_dataset(run.config, "test")
    palette = dataset.metainfo.get("palette")
    with torch.inference_mode(), in_scope(run.config):
        numbers = np.linspace(0, len(dataset) - 1, count + 2)[1:-1].round().astype(int)
        batch = pseudo_collate([dataset[int(number)] for number in numbers])
        samples = predictor.model.test_step(batch)
    return Shown(
        sum(parameter.numel() for parameter in predictor.model.parameters()),
        [draw_truth(sample, palette) for sample in samples],
        [draw_prediction(sample, palette) for sample in samples],
    )
