"""Depthwise convolution and SiLU: every path against the definition, in value and gradient."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _triton
from statescan.kernels.dwconv_silu import dwconv_silu, dwconv_silu_reference, gpu, is_fused, op

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def backend(request, monkeypatch):
    """Every test runs on both paths; without a GPU the kernels run in Triton's interpreter."""
    kernel = request.param == "kernel"

    def serves(*tensors):
        return kernel and all(t is None or t.dtype in _triton.TYPES for t in tensors)

    monkeypatch.setattr(_triton, "serves", serves)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


of_the_kernel = pytest.mark.parametrize("backend", ["kernel"], indirect=True)


def make_inputs(batch, H, W, channels, k=3, bias=True, dtype=torch.float32):
    """Random arguments that require gradients; x is a part of wider rows."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(DEVICE, dtype)

    inputs = {
        "x": randn(batch, H, W, 2 * channels)[..., :channels],
        "weight": randn(channels, 1, k, k) / k,
        "bias": randn(channels) if bias else None,
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
    return run(dwconv_silu_reference, inputs)


def errors(got, want):
    """Largest error of each result, relative to its largest number."""
    return {
        n: ((got[n].double() - t).abs().max() / t.abs().max().clamp_min(1e-30)).item()
        for n, t in want.items()
    }


CASES = [
    # batch, H, W, channels, k, bias
    pytest.param(2, 5, 7, 6, 3, True, id="B2-5x7-C6-k3"),
    pytest.param(1, 1, 1, 33, 3, False, id="B1-1x1-C33-k3-no-bias"),
    pytest.param(1, 6, 11, 3, 3, False, id="B1-6x11-C3-k3-no-bias"),
    pytest.param(1, 2, 3, 70, 3, True, id="B1-2x3-C70-k3"),
    pytest.param(2, 1, 9, 1, 3, True, id="B2-1x9-C1-k3"),
    pytest.param(1, 9, 1, 2, 5, True, id="B1-9x1-C2-k5"),
    pytest.param(1, 5, 4, 5, 5, True, id="B1-5x4-C5-k5"),
    pytest.param(1, 3, 4, 5, 7, False, id="B1-3x4-C5-k7-no-bias"),
    pytest.param(2, 3, 4, 5, 1, True, id="B2-3x4-C5-k1"),
    pytest.param(1, 4, 5, 2, 9, True, id="B1-4x5-C2-k9"),
]


@pytest.mark.parametrize(("batch", "H", "W", "channels", "k", "bias"), CASES)
def test_equals_reference(batch, H, W, channels, k, bias):
    inputs = make_inputs(batch, H, W, channels, k, bias)
    got, want = run(dwconv_silu, inputs), exactly(inputs)
    assert all(got[n].shape == t.shape for n, t in want.items())
    for name, error in errors(got, want).items():
        assert error < 3e-6, f"{name}: {error:.1e}"


@of_the_kernel
def test_rows_cut_into_strips(monkeypatch):
    """On a device with room for more programs than there are rows."""
    monkeypatch.setattr(_triton, "processors", lambda device: 100)
    inputs = make_inputs(1, 3, 21, 2)
    assert max(errors(run(dwconv_silu, inputs), exactly(inputs)).values()) < 3e-6


@of_the_kernel
def test_more_strips_than_programs(monkeypatch):
    """Every program adds up the gradients of several strips, across rows and samples."""
    monkeypatch.setattr(_triton, "processors", lambda device: 1)
    monkeypatch.setattr(gpu, "PROGRAMS_A_PROCESSOR", 2)
    inputs = make_inputs(3, 9, 4, 2)
    assert max(errors(run(dwconv_silu, inputs), exactly(inputs)).values()) < 3e-6


def test_float64():
    inputs = make_inputs(2, 5, 3, 7, dtype=torch.float64)
    assert max(errors(run(dwconv_silu, inputs), exactly(inputs)).values()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    """At most twice as far off as torch's own operators in the same dtype."""
    inputs = make_inputs(2, 5, 6, 16, dtype=dtype)
    got, want = run(dwconv_silu, inputs), exactly(inputs)
    torchs = errors(run(lambda **t: op.composed(*t.values()), inputs), want)
    assert all(t.dtype == dtype for t in got.values())
    for name, error in errors(got, want).items():
        assert error < 2 * torchs[name] + torch.finfo(dtype).eps / 4, name


def test_weights_of_another_dtype():
    inputs = make_inputs(2, 5, 6, 16, dtype=torch.bfloat16)
    wide = {n: inputs[n].detach().float().requires_grad_() for n in ("weight", "bias")}
    got, want = run(dwconv_silu, inputs | wide), exactly(inputs)
    assert got["out"].dtype == torch.bfloat16
    assert all(got[n].dtype == t.dtype for n, t in (inputs | wide).items())
    assert max(errors(got, want).values()) < 2 * torch.finfo(torch.bfloat16).eps


def test_autocast_changes_nothing():
    inputs = make_inputs(2, 3, 4, 8)
    want = dwconv_silu(**inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(dwconv_silu(**inputs), want)


def test_views():
    """Contiguous maps, parts of larger ones, and maps in another order of the axes."""
    inputs = make_inputs(2, 3, 4, 6)
    want = {n: t.double() for n, t in run(dwconv_silu, inputs).items()}
    x = inputs["x"].detach().contiguous()
    part = torch.cat([x, x], dim=1)[:, 3:]
    transposed = x.transpose(1, 2).contiguous().transpose(1, 2)
    channels_first = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for view in (x, part, transposed, channels_first):
        got = run(dwconv_silu, inputs | {"x": view.requires_grad_()})
        assert max(errors(got, want).values()) < 3e-6


@of_the_kernel
def test_same_bits_in_every_run():
    inputs = make_inputs(2, 5, 4, 20)
    first, second = run(dwconv_silu, inputs), run(dwconv_silu, inputs)
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad):
    inputs = make_inputs(3, 3, 4, 6)
    clean = run(dwconv_silu, inputs)
    spoilt = inputs["x"].detach().clone()
    spoilt[1, 1, 2] = bad
    got = run(dwconv_silu, inputs | {"x": spoilt.requires_grad_()})
    for result in ("out", "x"):
        assert not got[result][1].isfinite().all()
        assert torch.equal(got[result][[0, 2]], clean[result][[0, 2]])


def test_no_sample():
    x, weight, bias = make_inputs(0, 4, 5, 6).values()
    out = dwconv_silu(x, weight, bias)
    assert out.shape == (0, 4, 5, 6)
    out.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(bias.grad, torch.zeros_like(bias))


@of_the_kernel
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_opcheck(bias):
    inputs = make_inputs(2, 3, 4, 6, bias=bias)
    torch.library.opcheck(op._forward, (inputs["x"], inputs["weight"], inputs.get("bias")))


def test_compiles_without_graph_break():
    inputs = make_inputs(2, 3, 4, 6)
    want = {n: t.double() for n, t in run(dwconv_silu, inputs).items()}
    compiled = torch.compile(dwconv_silu, fullgraph=True, backend="aot_eager")
    assert max(errors(run(compiled, inputs), want).values()) < 3e-6


def test_flops_are_those_of_the_convolution(backend):
    inputs = make_inputs(2, 3, 4, 6)
    convolution = 2 * 9 * 2 * 3 * 4 * 6
    with FlopCounterMode(display=False) as counter:
        out = dwconv_silu(**inputs)
    assert counter.get_total_flops() == convolution
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    if backend == "kernel":  # which convolves again
        assert counter.get_total_flops() == 3 * convolution


def test_large_kernels_are_torchs():
    inputs = make_inputs(1, 3, 4, 2, k=9)
    assert not is_fused(**inputs)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": torch.zeros(3, 4, 6)}, r"x has shape \(3, 4, 6\), expected 4 dimensions"),
        ({"x": torch.zeros(2, 0, 4, 6)}, r"x has shape \(2, 0, 4, 6\), expected at least 1x1"),
        ({"x": torch.zeros(2, 3, 4, 5)}, "x has 5 channels, weight was made for 6"),
        ({"weight": torch.zeros(6, 1, 2, 2)}, r"\(6, 1, 2, 2\), expected an odd size"),
        ({"weight": torch.zeros(6, 1, 1, 3)}, r"\(6, 1, 1, 3\), expected \(6, 1, 3, 3\)"),
        ({"bias": torch.zeros(5)}, r"bias has shape \(5,\), expected \(6,\)"),
        ({"weight": torch.zeros(6, 1, 3, 3).int()}, "dtype torch.int32, expected a floating"),
        ({"weight": torch.zeros(6, 1, 3, 3, device="meta")}, "weight is on meta, x is on"),
    ],
)
def test_bad_arguments_are_named(change, sentence):
    change = {n: t if t.is_meta else t.to(DEVICE) for n, t in change.items()}
    with pytest.raises(ValueError, match=sentence):
        dwconv_silu(**make_inputs(2, 3, 4, 6) | change)
