import os
import random
import types

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS

from statescan.mm import train
from statescan.mm.checkpoints.files import POINTER
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


class FakeRunner:
    """Enough of a runner for the checkpoint hook; notes the order of what happens to files."""

    max_epochs, train_loop = 5, None

    def __init__(self, folder):
        self.work_dir, self.epoch, self.iter = str(folder), 0, 0

    def save_checkpoint(self, folder, name, meta, backend_args):
        assert backend_args == {"backend": "statescan_atomic"}
        hooks.atomic_write(os.path.join(folder, name), str(meta["epoch"]).encode())


def run(hook, folder, epochs=5):
    """Names in ``folder`` after each epoch."""
    fake, seen = FakeRunner(folder), []
    hook.before_train(fake)
    for epoch in range(epochs):
        fake.epoch = epoch
        hook.before_train_epoch(fake)
        seen.append(sorted(os.listdir(folder)))
    fake.epoch = epochs
    hook.after_train(fake)
    return [*seen[1:], sorted(os.listdir(folder))]


def test_keeps_the_last_checkpoints(tmp_path):
    names = run(hooks.AtomicCheckpointHook(keep=2), tmp_path)
    assert names[0] == ["epoch_1.pth", POINTER]
    assert names[-1] == ["epoch_4.pth", "epoch_5.pth", POINTER]
    assert (tmp_path / POINTER).read_text() == str(tmp_path / "epoch_5.pth")


def test_saves_every_interval_and_at_the_end(tmp_path):
    names = run(hooks.AtomicCheckpointHook(interval=2, keep=9), tmp_path)
    assert names[-1] == ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth", POINTER]


def test_the_old_checkpoint_goes_after_the_new_one_is_pointed_to(tmp_path, monkeypatch):
    """Stopped before any step of the second save, a whole checkpoint is pointed to."""
    hook, fake = hooks.AtomicCheckpointHook(), FakeRunner(tmp_path)
    hook.before_train(fake)
    fake.epoch = 1
    hook.end_of_epoch(fake)
    states = []
    for module, name in ((hooks, "atomic_write"), (hooks.Path, "unlink")):
        original = getattr(module, name)

        def step(*args, original=original):
            pointed = hooks.Path((tmp_path / POINTER).read_text())
            states.append((pointed.name, pointed.read_bytes()))
            return original(*args)

        monkeypatch.setattr(module, name, step)
    fake.epoch = 2
    hook.end_of_epoch(fake)
    assert states == [("epoch_1.pth", b"1")] * 2 + [("epoch_2.pth", b"2")]


def test_a_bar_on_a_terminal(config, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    config.train_cfg.val_interval = 2
    train(config)
    out, err = capsys.readouterr()
    assert "epoch 2/2: " in err
    assert "100%" in err
    assert [line for line in out.splitlines() if line.startswith("epoch 1")] == []
    assert "epoch 2/2  loss" in out
