"""State fusion: every path against the definition, in value and gradient."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _c
from statescan.kernels.state_fusion import cpu, op, state_fusion, state_fusion_reference

SETS = _c.INSTRUCTION_SETS[_c.INSTRUCTION_SETS.index(_c.instruction_set()) :]


@pytest.fixture(params=[*SETS, "streaming", "convolutions"], autouse=True)
def backend(request, monkeypatch):
    """Every test runs on all paths of this machine, and on the one that other devices take."""
    if request.param == "streaming":
        monkeypatch.setattr(_c, "library", lambda: None)
    elif request.param == "convolutions":
        monkeypatch.setattr(cpu, "MOST_TAPS", 0)
    else:
        monkeypatch.setattr(_c, "instruction_set", lambda: request.param)
    return request.param


def make_inputs(batch, H, W, channels, sizes=(3, 3, 3), dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    shapes = [(batch, H, W, channels), (len(sizes),), *((channels, 1, k, k) for k in sizes)]
    tensors = [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]
    h, alpha, *weights = (t.to(dtype).requires_grad_() for t in tensors)
    return h, weights, alpha


def run(function, h, weights, alpha, dilations):
    y = function(h, weights, alpha, dilations)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, [h, alpha, *weights], dy.to(y.dtype))]


CASES = [
    pytest.param(2, 7, 9, 5, (3, 3, 3), (1, 3, 5), id="B2-7x9-C5"),
    pytest.param(1, 1, 1, 17, (3, 3, 3), (1, 3, 5), id="B1-1x1-C17"),
    pytest.param(2, 3, 2, 33, (3, 3, 3), (1, 3, 5), id="B2-3x2-C33-smaller-than-the-kernel"),
    pytest.param(1, 16, 20, 16, (3, 3, 3), (1, 3, 5), id="B1-16x20-C16"),
    pytest.param(1, 6, 5, 3, (5,), (2,), id="one-5x5-kernel"),
    pytest.param(1, 6, 5, 3, (1, 3), (1, 1), id="1x1-and-3x3"),
]


@pytest.mark.parametrize(("batch", "H", "W", "channels", "sizes", "dilations"), CASES)
def test_equals_reference(batch, H, W, channels, sizes, dilations):
    inputs = make_inputs(batch, H, W, channels, sizes)
    got = run(state_fusion, *inputs, dilations)
    want = run(state_fusion_reference, *inputs, dilations)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max().clamp_min(1)


def test_a_constant_map_keeps_its_value():
    """Replicated borders: with kernels that add up to one, nothing changes, at the border too."""
    h = torch.full((1, 4, 6, 3), 2.5)
    y = state_fusion(h, [torch.full((3, 1, 3, 3), 1 / 9)] * 3, torch.tensor([0.2, 0.3, 0.5]))
    assert (y - h).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    h, weights, alpha = make_inputs(2, 9, 8, 6, dtype=torch.float32)
    exact = state_fusion(h, weights, alpha)
    with torch.autocast("cpu", torch.bfloat16):
        y = state_fusion(h.to(dtype), weights, alpha)
    assert y.dtype == dtype
    assert (y - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()


def test_same_bits_in_every_run_and_with_any_threads():
    inputs = make_inputs(2, 20, 18, 40, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    for number in (1, 2, 3, 1):
        torch.set_num_threads(number)
        results.append(run(state_fusion, *inputs, (1, 3, 5))[:2])
    torch.set_num_threads(threads)
    for other in results:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad):
    h, weights, alpha = make_inputs(3, 6, 6, 4)
    clean = state_fusion(h, weights, alpha)
    spoilt = h.detach().clone()
    spoilt[1, 2, 2] = bad
    y = state_fusion(spoilt, weights, alpha)
    assert not y[1].isfinite().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_opcheck():
    h, _, _ = make_inputs(2, 9, 8, 6, dtype=torch.float32)
    weight = torch.randn(2, 6, requires_grad=True)
    torch.library.opcheck(op._forward, (h, weight, [-1, 2], [0, 1], 2))


def test_compiles_and_exports():
    h, weights, alpha = make_inputs(2, 9, 8, 6, dtype=torch.float32)
    want = run(state_fusion, h, weights, alpha, (1, 3, 5))
    compiled = torch.compile(state_fusion, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, h, weights, alpha, (1, 3, 5)), want, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()

    class Fusion(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList(weights)
            self.alpha = torch.nn.Parameter(alpha)

        def forward(self, h):
            return state_fusion(h, list(self.weights), self.alpha)

    B, H, W = (torch.export.Dim.AUTO for _ in range(3))
    program = torch.export.export(Fusion(), (h,), dynamic_shapes=({0: B, 1: H, 2: W},))
    other = torch.randn(3, 12, 10, 6)
    assert torch.allclose(program.module()(other), state_fusion(other, weights, alpha), atol=1e-5)


def test_flops_are_counted(backend):
    h, weights, alpha = make_inputs(2, 9, 8, 6, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = state_fusion(h, weights, alpha)
    distinct = 27 if backend == "convolutions" else 25  # the kernels share their centre
    assert counter.get_total_flops() == 2 * distinct * y.numel()
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    read = 2 * (9 + 10) * (8 + 10) * 6  # positions of the padded map
    if backend != "convolutions":
        assert counter.get_total_flops() == 2 * distinct * (y.numel() + read)


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
