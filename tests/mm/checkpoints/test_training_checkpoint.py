import errno
import os
import pathlib

import pytest
import torch
from torch import nn

from statescan.mm import InputError
from statescan.mm.checkpoints.files import (
    POINTER,
    RESUMABLE,
    AtomicBackend,
    atomic_write,
    check_fits,
    latest_checkpoint,
    read_training_checkpoint,
)


@pytest.fixture
def saved(tmp_path) -> pathlib.Path:
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {"weight": torch.arange(1000.0)}}, path)
    return path


def test_reads_what_was_saved(saved):
    state_dict = read_training_checkpoint(saved)["state_dict"]
    assert torch.equal(state_dict["weight"], torch.arange(1000.0))


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="was not written"):
        AtomicBackend().put(b"new", path)
    assert path.read_bytes() == b"old"


def test_a_write_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, n=name, f=original: (calls.append(n), f(*args))[1]
        )
    atomic_write(tmp_path / "new folder" / "file", b"data")
    assert calls == ["fsync", "replace", "fsync"]


def test_latest_follows_a_moved_folder(saved):
    (saved.parent / POINTER).write_text("/elsewhere/run/epoch_1.pth")
    assert latest_checkpoint(saved.parent) == saved


def test_latest_is_none_before_the_first(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99], ids=["empty", "half", "tail-missing"])
def test_truncated(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"epoch_1\.pth' is damaged and was not loaded"):
        read_training_checkpoint(saved)


def test_one_damaged_byte(saved):
    data = bytearray(saved.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 1
    saved.write_bytes(data)
    with pytest.raises(InputError, match=r"epoch_1\.pth' is damaged .* does not match its check"):
        read_training_checkpoint(saved)


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"epoch_9\.pth' does not exist"):
        read_training_checkpoint(tmp_path / "epoch_9.pth")


def test_code_inside_is_refused_and_not_run(saved):
    class Intruder:
        def __reduce__(self):
            return os.system, ("touch intruded",)

    torch.save({"state_dict": Intruder()}, saved)
    with pytest.raises(InputError, match=r"besides plain data it holds posix\.system"):
        read_training_checkpoint(saved)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2]], ids=["dict", "list"])
def test_foreign(saved, content):
    torch.save(content, saved)
    with pytest.raises(InputError, match=r"epoch_1\.pth has no state_dict: it was not written by"):
        read_training_checkpoint(saved)


def test_weights_alone_are_a_checkpoint_that_cannot_be_resumed(saved):
    torch.save({"weight": torch.ones(1)}, saved)
    assert read_training_checkpoint(saved) == {"state_dict": {"weight": torch.ones(1)}}
    with pytest.raises(InputError, match=r"epoch_1\.pth has no meta, optimizer"):
        read_training_checkpoint(saved, required=RESUMABLE)


def test_of_another_model():
    model = nn.Linear(3, 2)
    state_dict = {"weight": torch.ones(2, 4), "scale": torch.ones(2)}
    message = (
        r"^checkpoint a\.pth is of another model: 1 missing \(bias\), 1 foreign \(scale\), "
        r"1 of another shape \(weight\)$"
    )
    with pytest.raises(InputError, match=message):
        check_fits("a.pth", state_dict, model)
    check_fits("a.pth", model.state_dict(), model)
