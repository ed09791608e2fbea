"""A training killed with SIGKILL and started again ends as an undisturbed one, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from statescan.mm.checkpoints.files import latest_checkpoint, read_training_checkpoint

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 10
CONFIG = """
_base_ = {base!r}
data_root = {data!r}
model = dict(
    backbone=dict(name="test_convnext", drop_path_rate=0.2),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0),
    loss=dict(_delete_=True, type="SoftTargetCrossEntropy"),
)
train_dataloader = dict(batch_size=8, num_workers=1)
val_dataloader = dict(num_workers=0)
train_cfg = dict(max_epochs={epochs}, val_interval=2)
env_cfg = dict(torch_threads=1)
"""


@pytest.fixture
def start(cifar10, tmp_path):
    """Starts a training with dropped paths, mixing and a data worker in a folder, resuming."""
    base = str(ROOT / "configs/classification/vmamba/vmamba_nano_cifar10.py")
    config = tmp_path / "killed.py"
    config.write_text(CONFIG.format(base=base, data=str(cifar10), epochs=EPOCHS))
    tool = [sys.executable, "-W", "error::UserWarning", ROOT / "tools/train.py", config, "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(work_dir: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [*tool, "--work-dir", work_dir], env=environment, stdout=subprocess.PIPE, text=True
        )

    return start


def kill_after_checkpoint(process: subprocess.Popen, work_dir: Path, delay: float) -> None:
    """SIGKILL ``delay`` seconds after the next checkpoint appears."""
    before = latest_checkpoint(work_dir)
    while latest_checkpoint(work_dir) == before:
        assert process.poll() is None, "the training ended before its first checkpoint"
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_same(ours, theirs, where=""):
    """Compare nested plain data, tensors by their bits."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert ours == theirs, where


def test_killed_twice_ends_as_undisturbed(start, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    calm = start(undisturbed)
    delays = [random.SystemRandom().uniform(0, 0.5) for _ in range(2)]
    for delay in delays:
        kill_after_checkpoint(start(killed), killed, delay)
    output, _ = start(killed).communicate()
    calm.communicate()
    assert calm.returncode == 0
    assert "going on from" in output, delays

    ours = read_training_checkpoint(latest_checkpoint(killed))
    theirs = read_training_checkpoint(latest_checkpoint(undisturbed))
    assert theirs["meta"]["epoch"] == EPOCHS
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_same(ours[part], theirs[part], f"{part} after kills {delays}")
    hubs = [checkpoint["message_hub"]["runtime_info"] for checkpoint in (ours, theirs)]
    assert_same(hubs[0]["history"], hubs[1]["history"], f"history after kills {delays}")
