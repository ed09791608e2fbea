"""Two gloo processes on CPU compute the gradients of one process with their joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CONFIG = ROOT / "configs/classification/vmamba/vmamba_nano_cifar10.py"


@pytest.fixture
def gradients(cifar10, tmp_path):
    """Gradients of the first step, by parameter, computed in so many processes."""

    def gradients(processes: int, batch: int) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{processes}.pth"
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        launcher = [sys.executable, *(torchrun if processes > 1 else [])]
        worker = [HERE / "ddp_worker.py", CONFIG, cifar10, batch, path]
        subprocess.run(
            [*launcher, *map(str, worker)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=True,
        )
        return torch.load(path, weights_only=True)

    return gradients


def test_two_processes_compute_the_gradients_of_one(gradients):
    together, alone = gradients(2, batch=8), gradients(1, batch=16)
    assert together.keys() == alone.keys()
    for name, gradient in alone.items():
        tolerance = 1e-5 * gradient.abs().max().clamp(min=1e-6)
        assert (together[name] - gradient).abs().max() <= tolerance, name
