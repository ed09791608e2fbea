"""Operators on a GPU at the sizes of models; `make gpu` runs this folder, `make test` does not."""

import gpu_cases
import pytest
import torch

from statescan import backends
from statescan.kernels import recurrence_2d
from statescan.kernels.recurrence_2d import gpu as recurrence_2d_gpu
from statescan.kernels.selective_scan import gpu

CASES = gpu_cases.cases()


@pytest.mark.parametrize("name", ["selective_scan", "ssd"])
def test_triton_serves_the_scans(name):
    assert backends()[name]["cuda"] == "Triton kernel"


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("2DMamba", "Mamba2D"))])
def test_few_programs_are_left_to_torch(name):
    """As the cases' names say."""
    inputs = gpu_cases.on("cuda", gpu_cases.make_inputs(CASES[name], torch.bfloat16))
    backend = recurrence_2d.op.backend(*inputs.values(), N=inputs["C"].shape[-1])
    torch_serves = "few programs" in name
    assert backend is (recurrence_2d.streaming if torch_serves else recurrence_2d_gpu)


@pytest.mark.parametrize("dtype", gpu_cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_float64_in_every_run(name, dtype):
    gpu_cases.compare(CASES[name], dtype, "cuda")


@pytest.mark.parametrize("name", ["1280x800", "VMamba-T stage 1"])
def test_few_programs_are_cut_into_segments(name):
    """One or two images alone would leave processors idle."""
    case = CASES[name]
    inputs = gpu_cases.on("cuda", gpu_cases.make_inputs(case, torch.bfloat16))
    order = ("x", "dt", "A", "B", "C", "D", "dt_weight", "dt_bias")
    table = torch.arange(inputs["x"].shape[1], device="cuda").expand(4, -1)
    call = gpu.Call(*(inputs[n] for n in order), table, True, True, backward=False)
    assert call.segments > 1
