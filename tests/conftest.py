"""Where there is no GPU, Triton's kernels run in its interpreter: asked for before its import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def compile_check():
    """Runs a benchmark with `--check`, in a process of its own, in which Triton compiles."""

    def check(name):
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        run = subprocess.run(
            [sys.executable, name, "--check"],
            cwd=ROOT / "benchmarks",
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert run.returncode == 0, run.stdout + run.stderr

    return check
