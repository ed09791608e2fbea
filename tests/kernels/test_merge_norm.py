"""Merge, norm and gate: every path against the definition, in value and gradient."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _triton
from statescan.kernels.merge_norm import is_fused, merge_norm, merge_norm_reference, op

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("y", "weight", "bias", "gate")


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def backend(request, monkeypatch):
    """Every test runs on both paths; without a GPU the kernels run in Triton's interpreter."""
    kernel = request.param == "kernel"

    def serves(*tensors):
        return kernel and all(t is None or t.dtype in _triton.TYPES for t in tensors)

    monkeypatch.setattr(_triton, "serves", serves)
    return request.param


of_the_kernel = pytest.mark.parametrize("backend", ["kernel"], indirect=True)


def make_inputs(batch, length, K, channels, bias=True, gate=True, dtype=torch.float32):
    """Random arguments that require gradients; the gate is a part of wider rows."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(DEVICE, dtype)

    y = randn(batch, length, K, channels) if K else randn(batch, length, channels)
    rows = randn(batch, length, 2 * channels)
    inputs = {
        "y": y,
        "weight": randn(channels),
        "bias": randn(channels) if bias else None,
        "gate": rows[..., channels:] if gate else None,
    }
    return {n: t.requires_grad_() for n, t in inputs.items() if t is not None}


def run(function, inputs):
    """Output and gradients of every input for a fixed random gradient of the output."""
    out = function(**inputs)
    rng = torch.Generator().manual_seed(1)
    dout = torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out)
    grads = torch.autograd.grad(out, list(inputs.values()), dout)
    return {"out": out.detach()} | dict(zip(inputs, grads, strict=True))


def exactly(inputs):
    """Results of the definition in float64."""
    inputs = {n: t.detach().double().requires_grad_() for n, t in inputs.items()}
    return run(merge_norm_reference, inputs)


def errors(got, want):
    """Largest error of each result, relative to its largest number."""
    return {
        n: ((got[n].double() - t).abs().max() / t.abs().max().clamp_min(1e-30)).item()
        for n, t in want.items()
    }


CASES = [
    # batch, length, K, channels, bias, gate
    pytest.param(2, 5, 4, 8, True, True, id="B2-L5-K4-C8-gated"),
    pytest.param(1, 7, 2, 33, True, False, id="B1-L7-K2-C33"),
    pytest.param(3, 9, 1, 6, False, True, id="B3-L9-K1-C6-gated-no-bias"),
    pytest.param(2, 3, 3, 100, False, False, id="B2-L3-K3-C100-no-bias"),
    pytest.param(2, 4, None, 16, True, True, id="B2-L4-C16-merged-gated"),
    pytest.param(1, 1, 4, 700, True, True, id="B1-L1-K4-C700-gated"),
    pytest.param(1, 2, 9, 1, True, True, id="B1-L2-K9-C1-gated"),
    pytest.param(1, 130, 2, 3, True, True, id="B1-L130-K2-C3-gated"),
]


@pytest.mark.parametrize(("batch", "length", "K", "channels", "bias", "gate"), CASES)
def test_equals_reference(batch, length, K, channels, bias, gate):
    inputs = make_inputs(batch, length, K, channels, bias, gate)
    got, want = run(merge_norm, inputs), exactly(inputs)
    assert all(got[n].shape == t.shape for n, t in want.items())
    for name, error in errors(got, want).items():
        if channels > 1:
            assert error < 3e-6, f"{name}: {error:.1e}"
        else:  # the norm is zero, and so are the gradients of y and weight
            assert (got[name].double() - want[name]).abs().max() < 1e-6


def test_float64():
    inputs = make_inputs(2, 5, 3, 7, dtype=torch.float64)
    assert max(errors(run(merge_norm, inputs), exactly(inputs)).values()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    """At most twice as far off as torch's own operators in the same dtype."""
    inputs = make_inputs(2, 6, 4, 40, dtype=dtype)
    got, want = run(merge_norm, inputs), exactly(inputs)
    torchs = errors(run(lambda **t: op.composed(*t.values(), 1e-5), inputs), want)
    assert all(t.dtype == dtype for t in got.values())
    for name, error in errors(got, want).items():
        assert error < 2 * torchs[name] + torch.finfo(dtype).eps / 4, name


def test_weights_of_another_dtype():
    inputs = make_inputs(2, 6, 4, 40, dtype=torch.bfloat16)
    wide = {n: inputs[n].detach().float().requires_grad_() for n in ("weight", "bias")}
    got, want = run(merge_norm, inputs | wide), exactly(inputs)
    assert {n: t.dtype for n, t in got.items()} == {
        "out": torch.bfloat16,
        **{n: t.dtype for n, t in (inputs | wide).items()},
    }
    assert max(errors(got, want).values()) < 2 * torch.finfo(torch.bfloat16).eps


def test_autocast_changes_nothing():
    inputs = make_inputs(2, 3, 2, 8)
    want = merge_norm(**inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(merge_norm(**inputs), want)


def test_views():
    """Parts of wider rows, of longer samples, and rows in another order of the axes."""
    inputs = make_inputs(2, 5, 3, 8)
    want = {n: t.double() for n, t in run(merge_norm, inputs).items()}
    y = inputs["y"].detach()
    shorter = torch.cat([y, y], dim=1)[:, :5]
    wider = torch.cat([y, y], dim=-1)[..., :8]
    routes_first = y.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    channels_first = y.transpose(1, 3).contiguous().transpose(1, 3)
    for view in (shorter, wider, routes_first, channels_first):
        assert not view.is_contiguous()
        got = run(merge_norm, inputs | {"y": view.requires_grad_()})
        assert max(errors(got, want).values()) < 3e-6


@of_the_kernel
def test_one_gradient_for_all_routes():
    inputs = make_inputs(2, 5, 3, 8)
    dy = run(merge_norm, inputs)["y"]
    assert dy.stride(2) == 0


@of_the_kernel
def test_only_the_sum_is_kept():
    """What autograd keeps has no routes."""
    inputs = make_inputs(2, 5, 3, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda t: t):
        merge_norm(**inputs)
    assert (2, 5, 3, 8) not in kept


@of_the_kernel
def test_the_kernel_can_do_without_the_sum():
    y, weight, bias, gate = make_inputs(2, 5, 3, 8).values()
    dout = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    grads = []
    for save in (True, False):
        out, _ = op._forward(y, weight, bias, gate, 1e-5, save)
        grads.append(torch.autograd.grad(out, [y, weight, bias, gate], dout))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@of_the_kernel
def test_same_bits_in_every_run():
    inputs = make_inputs(2, 40, 3, 20)
    first, second = run(merge_norm, inputs), run(merge_norm, inputs)
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad):
    inputs = make_inputs(3, 4, 2, 8)
    inputs["gate"] = inputs["gate"].detach().contiguous().requires_grad_()
    clean = run(merge_norm, inputs)
    for name in ("y", "gate"):
        spoilt = inputs[name].detach().clone()
        spoilt[1, 2] = bad
        got = run(merge_norm, inputs | {name: spoilt.requires_grad_()})
        for result in ("out", "y", "gate"):
            assert not got[result][1].isfinite().all()
            assert torch.equal(got[result][[0, 2]], clean[result][[0, 2]])


@pytest.mark.parametrize("shape", [(0, 4, 2, 8), (2, 0, 2, 8), (0, 4, 8)])
def test_empty(shape):
    y = torch.zeros(shape, device=DEVICE, requires_grad=True)
    weight = torch.ones(8, device=DEVICE, requires_grad=True)
    out = merge_norm(y, weight, weight)
    assert out.shape == (*shape[:2], 8)
    out.sum().backward()
    assert y.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@of_the_kernel
@pytest.mark.parametrize("K", [None, 3])
def test_opcheck(K):
    y, weight, bias, gate = make_inputs(2, 4, K, 8).values()
    torch.library.opcheck(op._forward, (y, weight, bias, gate, 1e-5, K is not None))
    torch.library.opcheck(op._forward, (y, weight, None, None, 1e-5, False))


def test_compiles_without_graph_break():
    inputs = make_inputs(2, 4, 3, 8)
    want = {n: t.double() for n, t in run(merge_norm, inputs).items()}
    compiled = torch.compile(merge_norm, fullgraph=True, backend="aot_eager")
    got = run(compiled, inputs)
    assert max(errors(got, want).values()) < 3e-6


def test_flops_are_counted(backend):
    inputs = make_inputs(2, 4, 3, 8)
    numbers = 2 * 4 * 8
    with FlopCounterMode(display=False) as counter:
        out = merge_norm(**inputs)
    assert counter.get_total_flops() == (12 * numbers if backend == "kernel" else 0)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    merged = 1 + 14 + 1 + 11  # of the sum that was kept
    assert counter.get_total_flops() == (merged * numbers if backend == "kernel" else 0)


def test_very_many_channels():
    weight = torch.ones(op.MOST_CHANNELS + 1, device=DEVICE)
    y = torch.arange(len(weight), device=DEVICE, dtype=torch.float32).expand(1, 1, -1)
    assert not is_fused(y, weight)
    assert abs(merge_norm(y, weight).std(correction=0) - 1) < 1e-3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"y": torch.zeros(4, 8)}, r"y has shape \(4, 8\), expected 3 or 4 dimensions"),
        (
            {"y": torch.zeros(2, 4, 0, 8)},
            r"\(2, 4, 0, 8\), expected at least one route and channel",
        ),
        ({"weight": torch.zeros(6)}, "y has 8 channels, weight was made for 6"),
        ({"bias": torch.zeros(6)}, r"bias has shape \(6,\), expected \(8,\)"),
        ({"gate": torch.zeros(2, 5, 8)}, r"gate has shape \(2, 5, 8\), expected \(2, 4, 8\)"),
        ({"gate": torch.zeros(2, 4, 8).long()}, "gate has dtype torch.int64, expected a floating"),
        ({"weight": torch.zeros(8, device="meta")}, "weight is on meta, y is on"),
    ],
)
def test_bad_arguments_are_named(change, sentence):
    change = {n: t if t.is_meta else t.to(DEVICE) for n, t in change.items()}
    with pytest.raises(ValueError, match=sentence):
        merge_norm(**make_inputs(2, 4, 3, 8) | change)
