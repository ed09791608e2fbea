"""Checkpoints of detectors when the disk is full, or when they are of another backbone."""

import errno
import os
import runpy
import types
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope
from small_recipes import BASES, detector, write_coco

from statescan import files
from statescan.mm import InputError, load_config
from statescan.mm.checkpoints.files import POINTER, AtomicBackend, latest_checkpoint
from statescan.mm.training.launch import build_runner
from statescan.mm.training.saving import SafeCheckpointHook

ROOT = Path(__file__).parents[3]
BOX = [5, 5, 30, 20, 3]


class Saver:
    """What `SafeCheckpointHook` needs of a runner: it saves the number of its epoch."""

    def __init__(self, folder: Path):
        self.work_dir, self.epoch, self.iter = str(folder), 0, 0
        self.message_hub = MessageHub(f"saver of {folder}")
        self.logger = types.SimpleNamespace(info=lambda text: None)
        self.train_dataloader = [None]

    def save_checkpoint(self, folder, filename, *args, meta, backend_args, **kwargs):
        backend = AtomicBackend()
        assert backend_args == {"backend": "statescan_atomic"}
        backend.put(str(self.epoch).encode(), os.path.join(folder, filename))


def epoch(hook, runner, score: float) -> None:
    """One epoch with its validation."""
    runner.max_epochs = 9
    hook.after_train_epoch(runner)
    runner.epoch += 1
    hook.after_val_epoch(runner, {"mAP": score})


@pytest.fixture
def saving(tmp_path):
    """A hook that keeps the last and the best checkpoint, and its runner after two epochs."""
    hook, runner = SafeCheckpointHook(1, max_keep_ckpts=1, save_best="mAP"), Saver(tmp_path)
    hook.before_train(runner)
    for score in (0.1, 0.2):
        epoch(hook, runner, score)
    return hook, runner


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_keeps_the_last_and_the_best(saving, tmp_path):
    hook, runner = saving
    assert names(tmp_path) == ["best_mAP_epoch_2.pth", "epoch_2.pth", POINTER]
    epoch(hook, runner, score=0.1)
    assert names(tmp_path) == ["best_mAP_epoch_2.pth", "epoch_3.pth", POINTER]
    assert latest_checkpoint(tmp_path).read_text() == "2"  # epochs over when it was saved


@pytest.mark.parametrize("full_from", range(3))
def test_a_full_disk_leaves_the_previous_checkpoints(saving, tmp_path, monkeypatch, full_from):
    """Full from the first, second or third file of the third epoch on: last, pointer, best."""
    hook, runner = saving
    synced, fsync = [], os.fsync

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 2 * full_from:  # a file and its folder are synced each time
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        epoch(hook, runner, score=0.3)
    last = latest_checkpoint(tmp_path)
    assert last.name == ("epoch_2.pth" if full_from < 2 else "epoch_3.pth")
    assert last.read_text() == "2"
    assert (tmp_path / "best_mAP_epoch_2.pth").read_text() == "2"
    assert not list(tmp_path.glob("*.tmp"))  # which would fill the disk further


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    path = tmp_path / "epoch_1.pth"
    with pytest.raises(InputError) as refused:
        AtomicBackend().put(b"weights", path)
    assert str(refused.value) == (
        f"{path} was not written (No space left on device): what was saved before is whole"
    )


def test_recipes_save_safely():
    bases = [*BASES.glob("detection/*.py"), *BASES.glob("segmentation/*.py")]
    configs = {path.stem: load_config(path) for path in bases}
    hooks = {name: c.get("default_hooks", {}).get("checkpoint") for name, c in configs.items()}
    kinds = {name: hook["type"] for name, hook in hooks.items() if hook}  # some are models alone
    assert len(kinds) >= 7
    assert set(kinds.values()) <= {"SafeCheckpointHook", "AtomicCheckpointHook"}, kinds


@pytest.fixture
def config(tmp_path):
    return detector(write_coco(tmp_path / "data", [[BOX]]), tmp_path / "work")


def test_a_detector_with_another_backbone(config, tmp_path):
    config.model.backbone.name = "test_vssd"
    with DefaultScope.overwrite_default_scope("mmdet"):
        weights = MODELS.build(config.model).state_dict()
    path = tmp_path / "other.pth"
    config.model.backbone.name = "test_vmamba"
    config.load_from = str(path)
    runner = build_runner(config)
    for prefix in ("backbone.model.", "backbone."):  # ours, and as authors name them
        theirs = {k.replace("backbone.model.", prefix): v for k, v in weights.items()}
        torch.save({"state_dict": theirs, "meta": {}}, path)
        runner._has_loaded = False
        with pytest.raises(InputError) as refused:
            runner.load_or_resume()
        sentence = str(refused.value)
        assert sentence.startswith(f"checkpoint {path} is of another model: ")
        assert "missing (backbone.model." in sentence
        assert "foreign (backbone.model." in sentence


def test_a_misspelt_backbone_is_one_sentence(monkeypatch, tmp_path):
    command = ["tools/train.py", "mask_rcnn_vmamba_tiny_s1l8_1x_coco"]
    options = [f"data_root={tmp_path}", "model.backbone.name=vmamba_tiny_sl18"]
    arguments = ["--work-dir", str(tmp_path), "--cfg-options", *options]
    monkeypatch.setattr("sys.argv", command + arguments)
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    assert exit.value.code == (
        "error: there is no backbone 'vmamba_tiny_sl18': did you mean 'vmamba_tiny_s1l8'?"
    )
