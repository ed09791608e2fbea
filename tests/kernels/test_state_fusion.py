"""State fusion: every path against the definition, in value and gradient.

Triton's kernels run on a GPU where there is one, else in Triton's interpreter.
"""

from typing import NamedTuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _c, _triton
from statescan.kernels.state_fusion import (
    cpu,
    gpu,
    op,
    state_fusion,
    state_fusion_reference,
    streaming,
)

SETS = _c.INSTRUCTION_SETS[_c.INSTRUCTION_SETS.index(_c.instruction_set()) :]


class Backend(NamedTuple):
    """A path, where it runs, the best it can compute in, and how good that is."""

    name: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-12


TRITON = Backend("triton", "cuda" if torch.cuda.is_available() else "cpu", torch.float32, 1e-5)


@pytest.fixture(params=[*SETS, "streaming", "triton"], autouse=True)
def backend(request, monkeypatch):
    """Every test runs on all paths."""
    if request.param == "triton":
        monkeypatch.setattr(op, "backend", lambda x, weight: gpu)
        return TRITON
    if request.param == "streaming":
        monkeypatch.setattr(_c, "library", lambda: None)
    else:
        monkeypatch.setattr(_c, "instruction_set", lambda: request.param)
    return Backend(request.param)


def make_inputs(batch, H, W, channels, sizes=(3, 3, 3), dtype=torch.float64, device="cpu"):
    rng = torch.Generator().manual_seed(0)
    shapes = [(batch, H, W, channels), (len(sizes),), *((channels, 1, k, k) for k in sizes)]
    tensors = [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]
    h, alpha, *weights = (t.to(device, dtype).requires_grad_() for t in tensors)
    return h, weights, alpha


def to(dtype, h, weights, alpha, device="cpu"):
    """The same numbers elsewhere, as new leaves."""
    h, alpha, *weights = (
        t.detach().to(device, dtype).requires_grad_() for t in (h, alpha, *weights)
    )
    return h, weights, alpha


def run(function, h, weights, alpha, dilations):
    y = function(h, weights, alpha, dilations)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, [h, alpha, *weights], dy.to(y))]


def assert_matches(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        error = (a.cpu().double() - b.double()).abs().max()
        assert error <= tolerance * b.abs().max().clamp_min(1)


CASES = [
    pytest.param(2, 7, 9, 5, (3, 3, 3), (1, 3, 5), id="B2-7x9-C5"),
    pytest.param(1, 1, 1, 17, (3, 3, 3), (1, 3, 5), id="B1-1x1-C17"),
    pytest.param(2, 3, 2, 33, (3, 3, 3), (1, 3, 5), id="B2-3x2-C33-smaller-than-the-kernel"),
    pytest.param(1, 10, 12, 16, (3, 3), (1, 5), id="B1-10x12-C16"),
    pytest.param(1, 1, 11, 2, (3,), (3,), id="B1-1x11-C2"),
    pytest.param(1, 4, 1, 65, (3, 3), (1, 3), id="B1-4x1-C65"),
    pytest.param(1, 6, 5, 3, (5,), (2,), id="one-5x5-kernel"),
    pytest.param(1, 6, 5, 3, (1, 3), (1, 1), id="1x1-and-3x3"),
]


@pytest.mark.parametrize(("batch", "H", "W", "channels", "sizes", "dilations"), CASES)
def test_equals_reference(batch, H, W, channels, sizes, dilations, backend):
    exact = make_inputs(batch, H, W, channels, sizes)
    inputs = to(backend.dtype, *exact, backend.device)
    exact = to(torch.float64, *inputs)  # rounded in the same way
    want = run(state_fusion_reference, *exact, dilations)
    assert_matches(run(state_fusion, *inputs, dilations), want, backend.tolerance)


@pytest.mark.parametrize("programs", [1, 1024], ids=["one-share", "many-shares"])
@pytest.mark.parametrize(("batch", "H", "W"), [(3, 5, 3), (5, 2, 2), (2, 1, 4)])
def test_programs_share_out_samples_and_border(batch, H, W, programs, backend, monkeypatch):
    """Small tiles, so that a few positions are many programs, and one spans samples."""
    for name, value in (("ROWS", 2), ("COLUMNS", 2), ("POSITIONS", 4), ("SUMMED", 2)):
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "PROGRAMS", programs)
    inputs = make_inputs(batch, H, W, 3, (3,), backend.dtype, backend.device)
    want = run(state_fusion_reference, *to(torch.float64, *inputs), (2,))
    assert_matches(run(state_fusion, *inputs, (2,)), want, backend.tolerance)


def test_the_fastest_backend_serves(backend, monkeypatch):
    monkeypatch.undo()
    x, taps = torch.empty(1, 2, 2, 3), torch.empty(cpu.MOST_TAPS, 3)
    assert op.backend(x, taps) is (cpu if _c.library() else streaming)
    assert op.backend(x, torch.empty(cpu.MOST_TAPS + 1, 3)) is streaming
    assert op.backend(x.to("meta"), taps.to("meta")) is streaming
    monkeypatch.setattr(_triton, "serves", lambda *tensors: True)
    assert op.backend(x.to("meta"), taps.to("meta")) is gpu


def test_a_constant_map_keeps_its_value(backend):
    """Replicated borders: with kernels that add up to one, nothing changes, at the border too."""
    h = torch.full((1, 4, 6, 3), 2.5, device=backend.device)
    weights = [torch.full((3, 1, 3, 3), 1 / 9, device=backend.device)] * 3
    y = state_fusion(h, weights, torch.tensor([0.2, 0.3, 0.5], device=backend.device))
    assert (y - h).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype, backend):
    """Weights and sums stay float32: only reading h and writing results may round."""
    inputs = make_inputs(2, 5, 4, 6, dtype=torch.float32, device=backend.device)
    h, *_ = to(dtype, *inputs, backend.device)
    inputs = h, *inputs[1:]
    with torch.autocast(backend.device, torch.bfloat16):
        got = run(state_fusion, *inputs, (1, 3, 5))
    assert got[0].dtype == got[1].dtype == dtype
    assert all(t.dtype == torch.float32 for t in got[2:])
    exact = to(torch.float64, *inputs)
    y = state_fusion_reference(*exact)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(y, [exact[0], exact[2], *exact[1]], dy.to(dtype).double())
    assert_matches(got, [y.detach(), *grads], torch.finfo(dtype).eps)


def test_same_bits_in_every_run_and_with_any_threads(backend):
    size = (1, 3, 2, 40) if backend is TRITON else (2, 20, 18, 40)
    inputs = make_inputs(*size, dtype=torch.float32, device=backend.device)
    threads, results = torch.get_num_threads(), []
    for number in (1, 2) if backend is TRITON else (1, 2, 3, 1):
        torch.set_num_threads(number)
        results.append(run(state_fusion, *inputs, (1, 3, 5)))
    torch.set_num_threads(threads)
    for other in results:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_any_strides(backend):
    inputs = make_inputs(2, 4, 3, 5, (3,), backend.dtype, backend.device)
    h = inputs[0].detach().permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0).requires_grad_()
    want = run(state_fusion, *inputs, (2,))
    assert_matches(run(state_fusion, h, *inputs[1:], (2,)), [t.cpu() for t in want], 0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad, backend):
    h, weights, alpha = make_inputs(3, 6, 6, 4, dtype=backend.dtype, device=backend.device)
    clean = state_fusion(h, weights, alpha)
    spoilt = h.detach().clone()
    spoilt[1, 2, 2] = bad
    y = state_fusion(spoilt, weights, alpha)
    assert not y[1].isfinite().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_opcheck(backend):
    h, _, _ = make_inputs(2, 5, 4, 6, dtype=torch.float32, device=backend.device)
    weight = torch.randn(2, 6, device=backend.device, requires_grad=True)
    torch.library.opcheck(op._forward, (h, weight, [-1, 2], [0, 1]))


def test_compiles_and_exports(backend):
    inputs = make_inputs(2, 5, 4, 6, dtype=torch.float32, device=backend.device)
    h, weights, alpha = inputs
    want = run(state_fusion, *inputs, (1, 3, 5))
    torch.compiler.reset()
    compiled = torch.compile(state_fusion, fullgraph=True, backend="aot_eager")
    assert_matches(run(compiled, *inputs, (1, 3, 5)), [t.cpu() for t in want], 1e-5)

    class Fusion(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList(weights)
            self.alpha = torch.nn.Parameter(alpha)

        def forward(self, h):
            return state_fusion(h, list(self.weights), self.alpha)

    B, H, W = (torch.export.Dim.AUTO for _ in range(3))
    program = torch.export.export(Fusion(), (h,), dynamic_shapes=({0: B, 1: H, 2: W},))
    other = torch.randn(3, 3, 6, 6, device=backend.device)
    assert torch.allclose(program.module()(other), state_fusion(other, weights, alpha), atol=1e-5)


def test_flops_are_counted(backend):
    inputs = make_inputs(2, 5, 4, 6, dtype=torch.float32, device=backend.device)
    with FlopCounterMode(display=False) as counter:
        y = state_fusion(*inputs)
    distinct = 25  # taps: the kernels share their centre
    assert counter.get_total_flops() == 2 * distinct * y.numel()
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 4 * distinct * y.numel()


def test_nothing_to_fuse(backend):
    inputs = make_inputs(0, 4, 3, 5, dtype=torch.float32, device=backend.device)
    y, dh, dalpha, *_ = run(state_fusion, *inputs, (1, 3, 5))
    assert y.shape == dh.shape == (0, 4, 3, 5)
    assert not dalpha.any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"h": torch.zeros(9, 8, 6)}, r"h has shape \(9, 8, 6\), expected 4 dimensions"),
        (
            {"weights": [torch.zeros(5, 1, 3, 3)] * 3},
            r"weights has shape .*, expected \(6, 1, 3",
        ),
        ({"weights": [torch.zeros(6, 1, 2, 2)] * 3}, "a kernel of size 2, expected odd sizes"),
        ({"dilations": (1, 3)}, "hold 3, 2 and 3 entries, expected as many of each"),
        ({"alpha": torch.zeros(3).long()}, "alpha has dtype torch.int64, expected a floating"),
        ({"alpha": torch.zeros(3, device="meta")}, "alpha is on meta, h is on cpu"),
    ],
)
def test_bad_arguments_are_named(change, sentence):
    h, weights, alpha = make_inputs(2, 9, 8, 6, dtype=torch.float32)
    arguments = {"h": h, "weights": weights, "alpha": alpha, "dilations": (1, 3, 5)} | change
    with pytest.raises(ValueError, match=sentence):
        state_fusion(**arguments)
