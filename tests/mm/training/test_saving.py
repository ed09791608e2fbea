"""When `AtomicCheckpointHook` saves, and in which order."""

import os

from statescan.mm.checkpoints.files import POINTER
from statescan.mm.training import saving


class FakeRunner:
    """Enough of a runner for the checkpoint hook; notes the order of what happens to files."""

    max_epochs, train_loop = 5, None

    def __init__(self, folder):
        self.work_dir, self.epoch, self.iter = str(folder), 0, 0

    def save_checkpoint(self, folder, name, meta, backend_args):
        assert backend_args == {"backend": "statescan_atomic"}
        saving.atomic_write(os.path.join(folder, name), str(meta["epoch"]).encode())


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
    names = run(saving.AtomicCheckpointHook(keep=2), tmp_path)
    assert names[0] == ["epoch_1.pth", POINTER]
    assert names[-1] == ["epoch_4.pth", "epoch_5.pth", POINTER]
    assert (tmp_path / POINTER).read_text() == str(tmp_path / "epoch_5.pth")


def test_saves_every_interval_and_at_the_end(tmp_path):
    names = run(saving.AtomicCheckpointHook(interval=2, keep=9), tmp_path)
    assert names[-1] == ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth", POINTER]


def test_the_old_checkpoint_goes_after_the_new_one_is_pointed_to(tmp_path, monkeypatch):
    """Stopped before any step of the second save, a whole checkpoint is pointed to."""
    hook, fake = saving.AtomicCheckpointHook(), FakeRunner(tmp_path)
    hook.before_train(fake)
    fake.epoch = 1
    hook.end_of_epoch(fake)
    states = []
    for module, name in ((saving, "atomic_write"), (saving.Path, "unlink")):
        original = getattr(module, name)

        def step(*args, original=original):
            pointed = saving.Path((tmp_path / POINTER).read_text())
            states.append((pointed.name, pointed.read_bytes()))
            return original(*args)

        monkeypatch.setattr(module, name, step)
    fake.epoch = 2
    hook.end_of_epoch(fake)
    assert states == [("epoch_1.pth", b"1")] * 2 + [("epoch_2.pth", b"2")]
