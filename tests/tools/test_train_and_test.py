"""tools/train.py and tools/test.py as they are run by hand."""

import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def write_cifar10(folder: Path) -> None:
    """Sixteen black and white images a split, in the form that Cifar10 reads."""
    files = []
    for grey in (0, 255):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (grey,) * 3).save(buffer, "JPEG")
        files += [buffer.getvalue()] * 8
    for split in ("train", "test"):
        np.savez(
            folder / f"cifar10_{split}_jpeg.npz",
            blob=np.frombuffer(b"".join(files), np.uint8),
            offsets=np.cumsum([0, *map(len, files)]),
            labels=np.repeat([0, 1], 8),
        )


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """The end of a command line, for a training of a second."""
    write_cifar10(tmp_path)
    return [
        *("--work-dir", str(tmp_path / "work"), "--cfg-options", f"data_root={tmp_path}"),
        *("model.backbone.name=test_convnext", "train_cfg.max_epochs=2"),
        *("train_dataloader.batch_size=8", "train_dataloader.num_workers=0"),
        *("val_dataloader.num_workers=0", "test_dataloader.num_workers=0"),
        "env_cfg.torch_threads=1",
    ]


def shell(*command: str) -> str:
    """What a command prints; it may print no warning and must succeed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_train_and_evaluate(arguments, tmp_path):
    trained = shell("tools/train.py", "vmamba_nano_cifar10", "--amp", *arguments)
    assert "epoch 2/2  loss" in trained
    checkpoint, out = tmp_path / "work/epoch_2.pth", tmp_path / "metrics.json"
    tested = shell(
        *("tools/test.py", "vmamba_nano_cifar10", str(checkpoint), "--out", str(out)),
        *("--predictions", str(tmp_path / "found")),
        *arguments,
    )
    metrics = json.loads(out.read_text())
    assert tested.split() == [
        *("top1", f"{metrics['top1']:.4f}"),
        *("top5", f"{metrics['top5']:.4f}"),
    ]
    with np.load(tmp_path / "found.npz") as found:
        assert np.mean(found["scores"].argmax(1) == found["labels"]) == metrics["top1"]


@pytest.fixture
def refused(monkeypatch):
    """Runs a tool in this process and returns the sentence that it ends with."""

    def refused(*command: str) -> str:
        monkeypatch.setattr("sys.argv", list(command))
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        return exit.value.code  # which Python prints on stderr

    return refused


def foreign(path: Path) -> None:
    torch.save({"state_dict": {"conv.weight": torch.ones(3)}}, path)


def truncated(path: Path) -> None:
    foreign(path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("tool", "spoil", "sentence"),
    [
        ("test", truncated, "error: checkpoint '{}' is damaged and was not loaded"),
        ("test", foreign, "error: weights {} of test_convnext: Error(s) in loading state_dict"),
        ("train", truncated, "error: checkpoint '{}' is damaged and was not loaded"),
        ("train", foreign, "error: checkpoint {} has no meta, optimizer"),
    ],
    ids=["test-truncated", "test-foreign", "train-truncated", "train-foreign"],
)
def test_a_bad_checkpoint(refused, arguments, tmp_path, tool, spoil, sentence):
    path = tmp_path / "bad.pth"
    spoil(path)
    flag = ["--resume"] if tool == "train" else []
    said = refused(f"tools/{tool}.py", "vmamba_nano_cifar10", *flag, str(path), *arguments)
    assert said.startswith(sentence.format(path))


@pytest.mark.parametrize(
    ("config", "option", "sentence"),
    [
        (
            "vmamba_nano_cifa10",
            "log_level=INFO",
            "error: there is no config 'vmamba_nano_cifa10': did you mean 'vmamba_nano_cifar10'",
        ),
        (
            "vmamba_nano_cifar10",
            "model.backbone.name=vmamba_nan",
            "error: there is no model 'vmamba_nan': did you mean 'vmamba_nano'",
        ),
        (
            "vmamba_nano_cifar10",
            "data_root=data/cifar11",
            "error: there is no data folder 'data/cifar11': put the data there or name another",
        ),
    ],
    ids=["config", "model", "data"],
)
def test_bad_input_is_one_sentence(refused, arguments, config, option, sentence):
    assert refused("tools/train.py", config, *arguments, option).startswith(sentence)
