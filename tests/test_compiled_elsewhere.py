"""Triton's kernels compile for GPUs that they were never run on."""

import json
import os
import subprocess
import sys

import compiled_elsewhere as elsewhere
import pytest


def test_kernels_compile_for_every_gpu():
    """In a process of its own: here Triton may be in its interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "compiled_elsewhere.py", "--check"],
        cwd=elsewhere.ROOT / "benchmarks",
        env=environment | {"PYTHONPATH": str(elsewhere.ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_record_has_every_call_for_every_gpu():
    gpus = json.loads(elsewhere.RECORD.read_text())["gpus"]
    assert list(gpus) == list(elsewhere.GPUS)
    for kernels in gpus.values():
        assert {kernel.rsplit(", ", 1)[0] for kernel in kernels} == set(elsewhere.CALLS)
        assert all(figures["registers"] > 0 for figures in kernels.values())


def test_the_document_holds_the_record():
    page = elsewhere.DOCUMENT.read_text()
    shown = page.split(elsewhere.START)[1].split(elsewhere.END)[0]
    assert shown == elsewhere.document(json.loads(elsewhere.RECORD.read_text()))


@pytest.mark.parametrize(("spilled", "sentences"), [(384, 0), (388, 1)])
def test_a_kernel_that_spills_is_named(spilled, sentences):
    table = {"gfx942": {"N1 bf16, forward": {"registers": 512, "spilled": spilled}}}
    wrong = elsewhere.outside(table)
    assert wrong == ["N1 bf16, forward, gfx942: spilled 388, over 384"][:sentences]
