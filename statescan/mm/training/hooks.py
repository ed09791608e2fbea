"""Hooks: seeds, history and progress of a training that may be killed at any moment.

What happens once an epoch happens at its very end, after its validation: a checkpoint (`saving.py`)
then has the epoch's metrics too, and a resumed run repeats nothing and misses nothing.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from tqdm import tqdm

from .loops import seed_everything


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Makes every random number of an epoch a function of (seed, epoch, rank).

    MMEngine saves no generator's state, so a resumed run would draw other numbers. It also seeds
    data workers alike in every epoch; here they get torch's own seeds, which follow the epoch's.
    (In an iteration-based training `statescan.mm.training.loops` seeds each iteration.)
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Take MMEngine's seeding away from the data workers.

        Raises:
            ValueError: The workers are persistent and would outlive their epoch's seed.
        """
        loader = runner.train_dataloader
        if loader.persistent_workers:
            raise ValueError("train_dataloader.persistent_workers is True, expected False")
        loader.worker_init_fn = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed ``random``, NumPy and torch."""
        seed_everything(runner.seed, runner.epoch)


def by_epoch(runner: Runner) -> bool:
    """Whether a training counts epochs, not iterations."""
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def progress(runner: Runner) -> tuple[int, int, str]:
    """How many epochs, or iterations, are over, of how many, and what they are."""
    if by_epoch(runner):
        return runner.epoch, runner.max_epochs, "epoch"
    return runner.iter, runner.max_iters, "iter"


@HOOKS.register_module()
class HistoryHook(Hook):
    """Keeps ``{"epoch", "lr", "loss", metrics...}`` of each epoch, also across a resume.

    In an iteration-based training it is ``"iter"`` and a row for each validation interval. The loss
    is the mean of its training losses (of rank 0). The list is ``"history"`` in the runner's
    message hub, which MMEngine saves in checkpoints.
    """

    def __init__(self):
        self.history: list[dict] = []
        self.losses: list[float] = []

    def before_train(self, runner: Runner) -> None:
        """Go on with the history of the checkpoint, or start one."""
        self.history = list(runner.message_hub.get_info("history", default=[]))
        runner.message_hub.update_info("history", self.history)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start an epoch's losses."""
        self.losses = []

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Note the loss of one batch."""
        self.losses.append(outputs["loss"].item())
        done, loop = runner.iter + 1, runner.train_loop
        if not by_epoch(runner) and (done % loop.val_interval == 0 or done == loop.max_iters):
            self._add(runner, {"iter": done})

    def after_train_epoch(self, runner: Runner) -> None:
        """Add the epoch."""
        if by_epoch(runner):
            self._add(runner, {"epoch": runner.epoch + 1})

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Add the metrics to the epoch just over, where this validation is part of a training."""
        if self.history:
            self.history[-1].update({name: float(value) for name, value in metrics.items()})

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make NumPy's numbers, such as the best score, plain ones."""
        info = checkpoint["message_hub"]["runtime_info"]
        info.update({k: v.item() for k, v in info.items() if isinstance(v, np.generic)})

    def _add(self, runner: Runner, entry: dict) -> None:
        (rate, *_) = runner.optim_wrapper.get_lr()["lr"]
        loss = sum(self.losses) / len(self.losses)
        self.history.append({**entry, "lr": rate, "loss": loss})
        self.losses = []


class EpochEndHook(Hook):
    """Calls ``end_of_epoch(runner)`` when an epoch and its validation, if due, are over.

    In an iteration-based training the intervals between validations are its epochs.
    """

    def before_train(self, runner: Runner) -> None:
        """Remember where this process started."""
        self.ended, *_ = progress(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """End the epoch before this one, where this process ran it."""
        self._end(runner)

    def before_train_iter(self, runner: Runner, batch_idx, data_batch=None) -> None:
        """End the interval before this iteration."""
        if not by_epoch(runner) and runner.iter % runner.train_loop.val_interval == 0:
            self._end(runner)

    def after_train(self, runner: Runner) -> None:
        """End the last epoch."""
        self._end(runner)

    def _end(self, runner: Runner) -> None:
        done, *_ = progress(runner)
        if done > self.ended:
            self.ended = done
            self.end_of_epoch(runner)


@HOOKS.register_module()
class ProgressHook(EpochEndHook):
    """A bar with the time left on a terminal; elsewhere a line an epoch. Rank 0 only."""

    priority = "LOWEST"

    def __init__(self):
        self.bar = tqdm(disable=True)

    def before_train(self, runner: Runner) -> None:
        """Open the bar at the iteration that training starts from."""
        super().before_train(runner)
        self.started, self.first = time.monotonic(), runner.iter
        self.bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            disable=not (is_main_process() and sys.stderr.isatty()),
            dynamic_ncols=True,
            bar_format="{desc}{bar} {percentage:3.0f}% {elapsed}<{remaining} {postfix}",
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Name the epoch."""
        super().before_train_epoch(runner)
        done, last, kind = progress(runner)
        self.bar.set_description(f"{kind} {done + 1}/{last}")

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advance by one."""
        if not by_epoch(runner):
            self.bar.set_description(f"iter {runner.iter + 1}/{runner.max_iters}", refresh=False)
        self.bar.set_postfix_str(f"loss {outputs['loss'].item():.4f}", refresh=False)
        self.bar.update()

    def before_val_epoch(self, runner: Runner) -> None:
        """Say why the bar stands still."""
        self.bar.set_postfix_str("evaluating")

    def end_of_epoch(self, runner: Runner) -> None:
        """Print the epoch's line, on a terminal only where it was evaluated."""
        entry = runner.message_hub.get_info("history")[-1]
        if is_main_process() and (self.bar.disable or len(entry) > 3):
            tqdm.write(self._line(runner, entry), file=sys.stdout)
            sys.stdout.flush()

    def after_train(self, runner: Runner) -> None:
        """Close the bar."""
        super().after_train(runner)
        self.bar.close()

    def _line(self, runner: Runner, entry: dict) -> str:
        done, last, kind = progress(runner)
        values = {name: value for name, value in entry.items() if name not in (kind, "lr")}
        metrics = "".join(f"  {name} {value:.4f}" for name, value in values.items())
        rate = (time.monotonic() - self.started) / (runner.iter - self.first)
        left = timedelta(seconds=round(rate * (runner.max_iters - runner.iter)))
        return f"{kind} {done}/{last}{metrics}  left {left}"
