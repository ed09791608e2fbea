import random
import types

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS

from statescan.mm import train
from statescan.mm.training import hooks, loops


def runner(seed=0, epoch=0, **kwargs):
    return types.SimpleNamespace(seed=seed, epoch=epoch, **kwargs)


def drawn(rank: int = 0, **kwargs) -> tuple:
    """First numbers of all generators in an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "get_rank", lambda: rank)
        hooks.EpochSeedHook().before_train_epoch(runner(**kwargs))
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_an_epoch_draws_the_same_numbers_whenever_it_runs():
    first = drawn(epoch=3)
    drawn(epoch=4)
    assert drawn(epoch=3) == first


def test_seed_epoch_and_rank_all_change_every_generator():
    base = drawn()
    for other in (drawn(seed=1), drawn(epoch=1), drawn(rank=1)):
        assert all(a != b for a, b in zip(base, other, strict=True))


def test_data_workers_draw_other_numbers_in_another_epoch(config):
    """MMEngine seeds them alike in every epoch."""
    config.train_dataloader.num_workers = 1
    config.train_dataloader.sampler.shuffle = False
    first_batches = []

    class Keep(hooks.Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx == 0:
                first_batches.append(data_batch["inputs"])

    HOOKS.register_module(module=Keep, name="KeepFirstBatch", force=True)
    config.default_hooks.keep = {"type": "KeepFirstBatch"}
    train(config)
    assert not torch.equal(*first_batches)


def test_workers_that_outlive_an_epoch_are_refused():
    loader = types.SimpleNamespace(persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers is True, expected False"):
        hooks.EpochSeedHook().before_train(runner(train_dataloader=loader))


def test_a_bar_on_a_terminal(config, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    config.train_cfg.val_interval = 2
    train(config)
    out, err = capsys.readouterr()
    assert "epoch 2/2: " in err
    assert "100%" in err
    assert [line for line in out.splitlines() if line.startswith("epoch 1")] == []
    assert "epoch 2/2  loss" in out
