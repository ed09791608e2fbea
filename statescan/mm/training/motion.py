"""Training a motion predictor with MMEngine: data, model, schedule and metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import DATASETS, METRICS, MODELS, PARAM_SCHEDULERS
from torch import Tensor
from torch.utils.data import Dataset

from ...tracking import ChangeUnit, MotionPredictor, mot_files, tracks, windows
from ..errors import InputError
from .metrics import write_npz


@DATASETS.register_module()
class MotionWindows(Dataset):
    """Windows over the ground-truth tracks of MOTChallenge files, for a `MotionPredictor`.

    Samples are ``dict(changes=(q, 4), count=(), target=(4,))``.

    Args:
        root: Folder that the patterns start from.
        files: Patterns of ground-truth files, such as ``"train/*/gt/gt.txt"``.
        frames: First and last frame to use, both included; None for all.
        steps: Changes that the predictor looks at, q.
        shortest: Least number of changes in a window.
        unit: Arguments of `statescan.tracking.ChangeUnit`: what changes are measured in.
        jitter: Standard deviation of the noise that detections will have, in that unit; every box
            of a window but the last, which is predicted, gets it.

    Raises:
        InputError: No file matches, one cannot be read, or no track is long enough.
    """

    metainfo: ClassVar[dict] = {}  # MMEngine asks for it

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        frames: Sequence[int] | None = None,
        steps: int = 10,
        shortest: int = 1,
        unit: dict | None = None,
        jitter: float = 0.0,
    ):
        paths = sorted(path for pattern in files for path in Path(root).glob(pattern))
        if not paths:
            raise InputError(f"no file under {root!r} matches {' or '.join(files)}")
        self.jitter = jitter
        try:
            runs = [run for path in paths for run in tracks(_between(mot_files.read(path), frames))]
            self.windows = windows(runs, steps, shortest=shortest, unit=ChangeUnit(**unit or {}))
        except ValueError as error:
            raise InputError(str(error)) from error

    def __len__(self) -> int:
        return len(self.windows.count)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        changes, target = (
            torch.from_numpy(array[index]) for array in (self.windows.changes, self.windows.target)
        )
        count = int(self.windows.count[index])
        if self.jitter:
            noise = self.jitter * torch.randn(len(changes) + 1, 4)
            there = torch.arange(len(changes)) >= len(changes) - count
            changes = changes + noise.diff(dim=0) * there.unsqueeze(1)
            target = target - noise[-1]
        return {"changes": changes, "count": torch.tensor(count), "target": target}


def _between(frames: dict, limits: Sequence[int] | None) -> dict:
    if limits is None:
        return frames
    first, last = limits
    return {number: boxes for number, boxes in frames.items() if first <= number <= last}


@MODELS.register_module()
class MotionRegressor(BaseModel):
    """A `MotionPredictor` trained by smooth L1, the mean over the four numbers.

    Args:
        predictor: Arguments of `statescan.tracking.MotionPredictor`.

    Source: MambaTrack, arXiv 2408.09178, equation 7.
    """

    def __init__(self, predictor: dict):
        super().__init__()
        self.predictor = MotionPredictor(**predictor)

    def forward(
        self, changes: Tensor, count: Tensor, target: Tensor | None = None, mode: str = "tensor"
    ):
        """Run the predictor on changes (B, q, 4) of which `count` (B,) are there.

        Args:
            changes: Past changes.
            count: How many.
            target: The next changes (B, 4), for the loss and the metric.
            mode: ``"tensor"`` for (B, 4), ``"predict"`` for a list of dicts with what was predicted
                and what `MotionMetric` compares, ``"loss"`` for a dict of losses.
        """
        predicted = self.predictor(changes, count)
        if mode == "tensor":
            return predicted
        if mode == "loss":
            return {"loss": F.smooth_l1_loss(predicted, target)}
        if mode == "predict":
            columns = zip(predicted, changes[:, -1], target, strict=True)
            return [{"predicted": p, "last": last, "target": t} for p, last, t in columns]
        raise ValueError(f"mode is {mode!r}, expected 'tensor', 'predict' or 'loss'")


@METRICS.register_module()
class MotionMetric(BaseMetric):
    """Mean absolute error of predicted changes, beside that of two predictors without a network.

    ``error``, ``error_repeated`` (the last change again) and ``error_at_rest`` (no change), each
    in the unit of the windows.

    Args:
        predictions: Write (windows, 4) predicted and true changes, ``predicted`` and ``target``,
            to this path with ``.npz`` after it; None for no file.
    """

    default_prefix = ""

    def __init__(self, predictions: str | None = None):
        super().__init__(collect_device="gpu")  # through the process group, gloo's too
        self.predictions = predictions

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predicted, the last and the true change of every window of a batch."""
        for sample in data_samples:
            kept = [sample[name].cpu().numpy() for name in ("predicted", "last", "target")]
            self.results.append(np.stack(kept))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Means over all windows."""
        predicted, last, target = np.stack(results, axis=1).astype(np.float64)
        if self.predictions:
            write_npz(self.predictions, predicted=predicted, target=target)
        guesses = {"error": predicted, "error_repeated": last, "error_at_rest": 0.0}
        return {name: float(np.abs(guess - target).mean()) for name, guess in guesses.items()}


@PARAM_SCHEDULERS.register_module()
class InverseSqrtLR(LRSchedulerMixin, _ParamScheduler):
    """The Transformer's learning rate: factor · dim^-½ · min(step^-½, step · warmup^-1½).

    The optimizer's learning rate is the factor. Counts iterations, from 1.

    Args:
        optimizer: What it steers.
        dim: Channels of the model.
        warmup: Steps of linear warm-up.
        by_epoch: False, and said so in a config, where MMEngine's runner reads it too.

    Raises:
        ValueError: `by_epoch` is not False: the runner would end the schedule after few steps.

    Source: arXiv 1706.03762, equation 3, which MambaTrack trains with.
    """

    def __init__(self, optimizer, dim: int, warmup: int = 4000, by_epoch: bool = True, **kwargs):
        if by_epoch:
            raise ValueError("by_epoch is True, expected False: InverseSqrtLR counts iterations")
        self.dim, self.warmup = dim, warmup
        super().__init__(optimizer, by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        step = self.last_step + 1
        shape = self.dim**-0.5 * min(step**-0.5, step * self.warmup**-1.5)
        return [base * shape for base in self.base_values]
