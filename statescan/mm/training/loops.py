"""Iteration-based training whose every batch is known by its number."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

STRETCH = 1000


def seed_everything(seed: int, number: int) -> None:
    """Seed ``random``, NumPy and torch by (seed, number of an epoch or iteration, rank)."""
    sequence = np.random.SeedSequence([seed, number, get_rank()])
    first, second, third = sequence.generate_state(3)
    random.seed(int(first))
    np.random.seed(second)
    torch.manual_seed(int(third))


class NumberedBatches:
    """Endless batches; which images they have, and how augmented, follows from seed and number.

    The loader's workers, whose random numbers run on from batch to batch, are started anew each
    `STRETCH` batches (or at the end of a loader that has one). So going on from any batch means to
    load again at most those since then; from the checkpoints of round numbers, none.

    Args:
        loader: Loader with MMEngine's ``InfiniteSampler``, or any sampler that ends.
        seed: Seed of the training.
    """

    def __init__(self, loader: DataLoader, seed: int):
        self.loader, self.seed = loader, seed
        self.batches = loader.batch_sampler
        self.endless = hasattr(self.batches.sampler, "indices")
        self.stretch = STRETCH if self.endless else len(loader)
        self.number, self.iterator = 0, None

    def __next__(self) -> dict:
        if self.iterator is None or self.number % self.stretch == 0:
            self._start()
        self.number += 1
        return self._load(self.number - 1)

    def skip_iter(self, count: int) -> None:
        """Go on from batch ``count``; called by MMEngine's loop when it resumes."""
        self.number, self.iterator = count, None

    def _start(self) -> None:
        """Start the workers at the stretch of the next batch, and load what is before that."""
        first = self.number - self.number % self.stretch
        sampler = self.batches.sampler
        if self.endless:  # its images of this rank, from that batch on
            start = first * self.batches.batch_size
            sampler.indices = islice(sampler._indices_of_rank(), start, None)
        else:
            sampler.set_epoch(first // self.stretch)
        seed_everything(self.seed, first)
        self.iterator = iter(self.loader)
        for number in range(first, self.number):
            self._load(number)

    def _load(self, number: int) -> dict:
        seed_everything(self.seed, number)  # of loading in this process and of the training step
        return next(self.iterator)


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """MMEngine's loop, which when it resumes goes on exactly where it was, and at once."""

    def __init__(self, runner, dataloader: DataLoader | dict, **kwargs):
        super().__init__(runner, dataloader, **kwargs)
        self.dataloader_iterator = NumberedBatches(self.dataloader, runner.seed)
