"""What `make gpu` runs on a GPU, tiny: scans in Triton's interpreter, the rest on the CPU."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import gpu_cases
import pytest
import torch

from statescan.kernels import recurrence_2d
from statescan.kernels.recurrence_2d import gpu as recurrence_2d_gpu
from statescan.kernels.selective_scan import gpu, op
from statescan.kernels.ssd import op as ssd_op

CASES = gpu_cases.cases(tiny=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def backend(operator, module, *inputs, N=1):
    """Triton's module of an operator, or torch's for float64."""
    return operator.streaming if inputs[0].dtype == torch.float64 else module


@pytest.mark.parametrize("name", CASES)
def test_operators(name, monkeypatch):
    for operator, module in ((op, gpu), (recurrence_2d.op, recurrence_2d_gpu)):
        monkeypatch.setattr(operator, "backend", partial(backend, operator, module))
    monkeypatch.setattr(ssd_op, "on_triton", lambda x, *rest: x.dtype != torch.float64)
    gpu_cases.compare(CASES[name], torch.bfloat16, DEVICE, runs=1)


def test_a_wrong_result_is_seen():
    right = CASES["ssd"]

    def wrong(x, **inputs):
        return right.run(x, **inputs) * (1 if x.dtype == torch.float64 else 1.001)

    with pytest.raises(AssertionError, match=r"y: 1\.0e-03, over 1\.0e-04"):
        gpu_cases.compare(right._replace(run=wrong), torch.float32, DEVICE)


def test_a_result_that_changes_is_seen():
    right, runs = CASES["ssd"], iter(range(100))

    def changing(x, **inputs):
        return right.run(x, **inputs) * (1 + 1e-6 * next(runs))

    with pytest.raises(AssertionError, match=r"'y'.* changed from run to run"):
        gpu_cases.compare(right._replace(run=changing), torch.float32, DEVICE)


def test_every_family_has_a_model():
    names = gpu_cases.smallest_models()
    assert "test_vmamba" in names
    assert all(name.startswith("test_") for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models(dtype):
    gpu_cases.compare_model("test_vmamba", dtype, DEVICE, size=32)


def test_products_are_exact_on_a_gpu_and_left_as_they_were(tmp_path):
    """The fixture of tests/gpu, in a process of its own."""
    (tmp_path / "test_products.py").write_text("""
import torch

def test_exact():
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
""")
    tests = Path(__file__).parent
    folders = (tests.parent, tests.parent / "benchmarks", tests / "gpu")
    options = ["-q", "-p", "conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
