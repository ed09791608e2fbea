"""Every operator on a device against float64 on a CPU: the problems, and how they are compared.

`make gpu` runs them at the sizes of models; the tests without a GPU run them tiny.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import timm
import torch
from gpu_timing import poisoned
from timm.models import model_entrypoint
from torch import Tensor

import statescan
from statescan import kernels
from statescan.scans.routes import resolve_routes, route_table

RUNS = 10  # that must give the same bits
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Shapes = dict[str, tuple[int, ...]]
Results = dict[str, Tensor]


class Case(NamedTuple):
    """A problem.

    Args:
        run: computes the output from all inputs by name.
        rows: shapes of the inputs in the type under test.
        parameters: shapes of the inputs that stay in float32.
    """

    run: Callable[..., Tensor]
    rows: Shapes
    parameters: Shapes


def scan(batch, H, W, C, routes, N=1, rank=None, function=kernels.selective_scan) -> Case:
    """The selective scan along a set of routes, or its states."""
    chosen = resolve_routes(routes)
    K, L = len(chosen), H * W
    rows = {"x": (batch, L, C), "dt": (batch, L, K, rank or C), "B": (batch, L, K, N)}
    parameters = {"A": (K, C, N), "dt_bias": (K, C)}
    if function is kernels.selective_scan:
        rows["C"], parameters["D"] = (batch, L, K, N), (K, C)
    if rank:
        parameters["dt_weight"] = (K, C, rank)

    def run(x, **inputs) -> Tensor:
        return function(x, **inputs, routes=route_table(chosen, H, W, x.device))

    return Case(run, rows, parameters)


def ssd(batch, H, W, heads, P, N, routes="cross") -> Case:
    """Mamba-2's scan."""
    chosen = resolve_routes(routes)
    K, L = len(chosen), H * W
    rows = {"x": (batch, L, heads, P), "dt": (batch, L, K, heads)}
    rows |= dict.fromkeys("BC", (batch, L, K, 1, N))

    def run(x, **inputs) -> Tensor:
        return kernels.ssd(x, **inputs, routes=route_table(chosen, H, W, x.device))

    return Case(run, rows, dict.fromkeys(("A", "D", "dt_bias"), (K, heads)))


def noncausal(batch, L, heads, P, N) -> Case:
    """VSSD's operator."""
    rows = {"x": (batch, L, heads, P), "dt": (batch, L, heads), "B": (batch, L, N)}
    rows["C"] = (batch, L, N)
    parameters = dict.fromkeys(("A", "D", "dt_bias"), (heads,))
    return Case(kernels.noncausal_ssd, rows, parameters)


def recurrence(name, batch, H, W, C, N) -> Case:
    """A 2-D recurrence."""
    cell, state = (batch, H, W, C), (batch, H, W, N)
    rows, parameters = {
        "scan_2dmamba": ({"x": cell, "dt": cell, "B": state, "C": state}, {"A": (C, N)}),
        "scan_mamba2d": (
            dict(x=cell, dt_top=cell, dt_left=cell, B_top=state, B_left=state, C=state),
            {"A_top": (C, N), "A_left": (C, N)},
        ),
        "scan_v2m": (
            {"x": cell, "dt": cell, "B": state, "dt2": cell, "C2": state},
            {"A": (C, N), "A2": (C, N)},
        ),
    }[name]
    return Case(getattr(kernels, name), rows, {**parameters, "D": (C,)})


def fusion(batch, H, W, C) -> Case:
    """Spatial-Mamba's state fusion of three kernels."""

    def run(h, alpha, **weights) -> Tensor:
        return kernels.state_fusion(h, list(weights.values()), alpha)

    weights = {f"weight{i}": (C, 1, 3, 3) for i in range(3)}
    return Case(run, {"h": (batch, H, W, C)}, {"alpha": (3,), **weights})


def cases(tiny: bool = False) -> dict[str, Case]:
    """All problems by name, at the sizes of models, or tiny."""
    states = kernels.selective_scan_states
    two_d, mamba2d, v2m = (
        partial(recurrence, f"scan_{name}") for name in ("2dmamba", "mamba2d", "v2m")
    )
    given = {  # what makes it, its size in a model, its tiny size, the rest
        "VMamba-T stage 1": (scan, (2, 56, 56, 192), (1, 2, 3, 4), ("cross", 1, 2)),
        "VMamba-T stage 1, full dt": (scan, (2, 56, 56, 192), (1, 2, 2, 3), ("cross",)),
        "VMamba-T stage 1, N=16": (scan, (2, 56, 56, 192), (1, 1, 2, 3), ("cross", 16, 2)),
        "1280x800": (scan, (1, 200, 320, 96), (1, 2, 2, 3), ("cross", 1, 3)),
        "Vim-T": (scan, (2, 14, 14, 384), (2, 2, 1, 2), ("bidirectional", 16, 3)),
        "atrous routes": (scan, (2, 56, 56, 64), (1, 2, 3, 2), ("atrous", 1, 2)),
        "states": (scan, (2, 28, 28, 64), (1, 2, 2, 2), ("raster", 2, 2, states)),
        "ssd": (ssd, (2, 28, 28, 4, 32, 16), (1, 2, 3, 1, 2, 3), ()),
        "ssd, N=64": (ssd, (2, 28, 28, 6, 64, 64), (1, 1, 2, 2, 3, 20), ("bidirectional",)),
        "ssd, atrous routes": (ssd, (2, 28, 28, 4, 32, 16), (1, 1, 3, 1, 2, 2), ("atrous",)),
        "noncausal ssd": (noncausal, (2, 3136, 4, 32, 64), (2, 5, 2, 3, 4), ()),
        "2DMamba": (two_d, (8, 28, 27, 200, 6), (1, 3, 2, 2, 2), ()),
        "2DMamba, N=1": (two_d, (8, 56, 56, 192, 1), (1, 2, 2, 2, 1), ()),
        "2DMamba, few programs": (two_d, (1, 28, 28, 64, 4), (1, 2, 1, 2, 1), ()),
        "Mamba2D": (mamba2d, (8, 28, 27, 200, 6), (1, 3, 2, 2, 2), ()),
        "Mamba2D, few programs": (mamba2d, (1, 28, 28, 64, 4), (1, 2, 1, 2, 1), ()),
        "V2M": (v2m, (2, 28, 28, 64, 4), (1, 3, 2, 2, 2), ()),
        "state fusion": (fusion, (2, 56, 56, 64), (1, 4, 3, 2), ()),
    }
    return {
        name: make(*(small if tiny else full), *rest)
        for name, (make, full, small, rest) in given.items()
    }


def make_inputs(case: Case, dtype: torch.dtype) -> Results:
    """Random inputs on the CPU; decay rates are negative, step sizes mostly small."""
    rng = torch.Generator().manual_seed(0)
    inputs = {}
    for name, shape in (case.rows | case.parameters).items():
        t = torch.randn(shape, generator=rng)
        t = -t.abs() - 0.1 if name.startswith("A") else t
        t = t - 3 if name == "dt_bias" else t
        inputs[name] = t.to(dtype) if name in case.rows else t
    return inputs


def results(case: Case, inputs: Results) -> Results:
    """Output, and gradients of all inputs for a random gradient of the output."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    y = case.run(**leaves)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    grads = torch.autograd.grad(y, list(leaves.values()), dy)
    return {"y": y.detach()} | dict(zip(leaves, grads, strict=True))


def on(device: str, inputs: Results, dtype: torch.dtype | None = None) -> Results:
    """Inputs on a device, in a type."""
    return {name: t.to(device, dtype) for name, t in inputs.items()}


def assert_near(got: Results, want: Results, limit: float) -> None:
    """Each result's error, relative to its norm, is no more than a limit; NaN is."""
    for name, value in want.items():
        error = torch.linalg.vector_norm(got[name].cpu().double() - value.double())
        size = torch.linalg.vector_norm(value.double())
        assert error <= limit * size, f"{name}: {float(error / size):.1e}, over {limit:.1e}"


def compare(case: Case, dtype: torch.dtype, device: str, runs: int = RUNS) -> None:
    """A device's results are near float64's for the same numbers, and the same bits in every run.

    Results may be off by four of their type's eps, float32's by 1e-4: sums of thousands, and
    intermediate results that are rounded too.
    """
    inputs = make_inputs(case, dtype)
    want = results(case, on("cpu", inputs, torch.float64))
    moved, limit = on(device, inputs), max(1e-4, 4 * torch.finfo(dtype).eps)
    with poisoned():  # where torch's own operators take deterministic forms, too
        assert_near(results(case, moved), want, limit)
    got = results(case, moved)
    assert all(got[name].dtype == t.dtype for name, t in inputs.items())
    assert_near(got, want, limit)
    for _ in range(runs - 1):
        again = results(case, moved)
        changed = [name for name, t in got.items() if not torch.equal(again[name], t)]
        assert not changed, f"{changed} changed from run to run"


def smallest_models() -> list[str]:
    """A model of each family, a family being a file of backbones: the one made for tests."""
    families: dict[str, str] = {}
    for name in sorted(statescan.list_models(), key=lambda name: not name.startswith("test_")):
        families.setdefault(model_entrypoint(name).__module__, name)
    return sorted(families.values())


def model_results(name: str, dtype: torch.dtype, device: str, size: int) -> Results:
    """Logits of a model for two random images, and the gradients of its parameters."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval().to(device, dtype)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    y = model(x.to(device, dtype))
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(y, parameters, dy)
    return {"logits": y.detach()} | dict(zip(names, grads, strict=True))


def off(got: Results, want: Results) -> float:
    """Error of all results as one vector, relative to its norm."""
    errors, sizes = (
        torch.stack([torch.linalg.vector_norm(v) for v in values])
        for values in (
            [got[n].cpu().double() - v.double() for n, v in want.items()],
            [v.double() for v in want.values()],
        )
    )
    return float(torch.linalg.vector_norm(errors) / torch.linalg.vector_norm(sizes))


def compare_model(name: str, dtype: torch.dtype, device: str, size: int) -> None:
    """A model on a device is within 1e-4 of float64, or twice the CPU's error in the same type."""
    want = model_results(name, torch.float64, "cpu", size)
    on_cpu = off(model_results(name, dtype, "cpu", size), want)
    on_device = off(model_results(name, dtype, device, size), want)
    assert on_device <= max(1e-4, 2 * on_cpu), f"{on_device:.1e}, on a CPU {on_cpu:.1e}"
