"""The converter, run as a user runs it."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import statescan

ROOT = Path(__file__).parents[2]
VARIANTS = ROOT / "tests/golden/vmamba/variants.json.gz"


def run(*args):
    command = [sys.executable, ROOT / "tools/convert_checkpoint.py", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A checkpoint with the published tiny model's keys and shapes, and random numbers."""
    with gzip.open(VARIANTS) as file:
        shapes = next(
            v["state_dict"]
            for v in json.load(file)["variants"]
            if v["checkpoint_url_name"] == "vssm1_tiny_0230s_ckpt_epoch_264.pth"
        )
    path = tmp_path_factory.mktemp("official") / "official.pth"
    weights = {key: torch.rand(shape) for key, shape in shapes.items()}
    torch.save({"model": weights}, path)
    return path, weights


def test_classifier(official, tmp_path):
    path, weights = official
    done = run(path, tmp_path / "ours.safetensors", "--model", "vmamba_tiny_s1l8")
    assert done.returncode == 0, done.stderr
    assert f"{len(weights)} weights of vmamba_tiny_s1l8" in done.stdout
    model = timm.create_model(
        "vmamba_tiny_s1l8", checkpoint_path=str(tmp_path / "ours.safetensors")
    )
    assert torch.equal(model.head.fc.weight, weights["classifier.head.weight"])
    assert torch.equal(model.stages[1].downsample.conv.bias, weights["layers.0.downsample.1.bias"])


def test_detector(official, tmp_path):
    _, weights = official
    detector = {f"backbone.{k}": v for k, v in weights.items() if not k.startswith("classifier")}
    for i, dim in enumerate((96, 192, 384, 768)):
        detector |= {f"backbone.outnorm{i}.{p}": torch.rand(dim) for p in ("weight", "bias")}
    detector["neck.conv.weight"] = torch.rand(3)
    torch.save({"state_dict": detector}, tmp_path / "detector.pth")
    target = tmp_path / "ours.safetensors"
    done = run(
        tmp_path / "detector.pth", target, "--model", "vmamba_tiny_s1l8", "--prefix", "backbone."
    )
    assert done.returncode == 0, done.stderr
    assert "left out: 1 weights under neck." in done.stdout
    ours = statescan.read_checkpoint(target)
    assert torch.equal(ours["out_norms.2.weight"], detector["backbone.outnorm2.weight"])
    assert not [key for key in ours if key.startswith(("head", "norm."))]


def test_checkpoint_of_our_own_training(tmp_path):
    """With its own number of classes and image channels."""
    model = timm.create_model("test_vmamba", num_classes=3, in_chans=1)
    weights = {f"backbone.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": weights, "meta": {"epoch": 3}}, tmp_path / "epoch_3.pth")
    target = tmp_path / "ours.safetensors"
    done = run(tmp_path / "epoch_3.pth", target, "--model", "test_vmamba", "--prefix", "backbone.")
    assert done.returncode == 0, done.stderr
    again = timm.create_model("test_vmamba", num_classes=3, in_chans=1, checkpoint_path=str(target))
    assert torch.equal(again.head.fc.weight, model.head.fc.weight)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["none.pth", "x.safetensors", "--model", "vmamba_nano"], "'none.pth' does not exist"),
        (["none.pth", "x.pth", "--model", "vmamba_nano"], "expected a name ending in .safetensors"),
        (["none.pth", "x.safetensors", "--model", "vmamba_nona"], "did you mean 'vmamba_nano'?"),
    ],
)
def test_bad_arguments(args, sentence):
    done = run(*args)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
