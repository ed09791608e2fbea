"""The 2-D recurrences against their definitions, in value and gradient."""

import math
import warnings

import pytest
import torch
from recurrence_problems import DECAYS, MAPS, MATRICES, OPERATORS, make_inputs, run
from scan_problems import assert_matches
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _triton, backends
from statescan.kernels.recurrence_2d import (
    op,
    scan_2dmamba,
    scan_mamba2d,
    scan_v2m,
    scan_v2m_columns,
    scan_v2m_rows,
    streaming,
)
from statescan.kernels.selective_scan import selective_scan

every_operator = pytest.mark.parametrize("name", OPERATORS)
own_kernels = pytest.mark.parametrize("name", ["2dmamba", "mamba2d"])
SIZES = [(1, 1, 1, 1), (1, 6, 3, 2), (7, 1, 2, 3), (4, 4, 3, 1), (8, 16, 2, 1), (5, 7, 4, 3)]
SIZE_IDS = [f"H{H}-W{W}-C{C}-N{N}" for H, W, C, N in SIZES]


@every_operator
@pytest.mark.parametrize("block", [2**19, 8], ids=["one-block", "many-blocks"])
@pytest.mark.parametrize("sizes", SIZES, ids=SIZE_IDS)
def test_equals_reference(name, block, sizes, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", block)
    function, reference, _ = OPERATORS[name]
    inputs = make_inputs(name, 2, *sizes)
    assert_matches(run(function, inputs), run(reference, inputs), 1e-11)


@pytest.mark.parametrize("block", [1, 60, 140, 10_000])
def test_blocks_cover_batch_and_channels_once(block, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", block)
    count = torch.zeros(5, 2, 3, 7)
    for samples, channels in streaming.blocks(count, N=2):
        part = streaming.cut(count, samples, channels)
        part += 1
        assert part.numel() * 2 <= max(block, 12)
    assert (count == 1).all()


def test_blocks_fill_a_gpu():
    elsewhere = torch.empty(128, 14, 14, 192, device="meta")
    assert len(list(streaming.blocks(elsewhere, N=1))) == 1
    assert len(list(streaming.blocks(elsewhere, N=16))) == 3


# Every 2x2 example has one channel and one state, C = 1, dt so that delta = 1, B = 1, D = 10.
DELTA_ONE = math.log(math.e - 1)  # softplus of it is 1
HALF, THIRD = -math.log(2), -math.log(3)  # decays of 1/2 and 1/3


def by_hand(function, **decays):
    """A scan of ((1, 2), (3, 4)) with delta = B = C = 1 and D = 10."""
    names = next(v[2] for v in OPERATORS.values() if v[0] is function).split()
    inputs = {}
    for name in names:
        if name in decays:
            inputs[name] = torch.tensor([[decays[name]]], dtype=torch.float64)
        elif name in MAPS or name in MATRICES:
            value = DELTA_ONE if name.startswith("dt") else 1
            inputs[name] = torch.full((1, 2, 2, 1), value, dtype=torch.float64)
    inputs["x"] = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64).view(1, 2, 2, 1)
    inputs["D"] = torch.tensor([10.0], dtype=torch.float64)
    return function(**inputs).flatten().tolist()


def test_2dmamba_by_hand():
    # g = 1, 2 + 1/2; 3, 4 + 3/2. h = g in row 0, then 3 + 1/2, 11/2 + 5/4.
    want = [1 + 10, 2.5 + 20, 3.5 + 30, 6.75 + 40]
    assert by_hand(scan_2dmamba, A=HALF) == pytest.approx(want, rel=1e-12)


def test_mamba2d_by_hand():
    # h = 1, 1/2 + 2 (left alone); 1/3 + 3 (top alone), (10/3 / 2 + 4 + 5/2 / 3 + 4) / 2.
    want = [1 + 10, 2.5 + 20, 10 / 3 + 30, 21 / 4 + 40]
    got = by_hand(scan_mamba2d, A_top=THIRD, A_left=HALF)
    assert got == pytest.approx(want, rel=1e-12)


def test_v2m_by_hand():
    # u = 11, 2.5 + 20; 33, 5.5 + 40. h = u in row 0, then 33 + 11/3, 45.5 + 22.5/3. No D2.
    want = [11, 22.5, 33 + 11 / 3, 45.5 + 7.5]
    assert by_hand(scan_v2m, A=HALF, A2=THIRD) == pytest.approx(want, rel=1e-12)


def test_2dmamba_without_decay_is_a_prefix_sum():
    inputs = make_inputs("2dmamba", 2, 5, 7, 3, 2)
    inputs["A"] = torch.zeros(3, 2, dtype=torch.float64)
    del inputs["D"], inputs["dt_bias"]
    driven = torch.nn.functional.softplus(inputs["dt"]) * inputs["x"]
    h = (driven[..., None] * inputs["B"][..., None, :]).cumsum(1).cumsum(2)
    want = (h * inputs["C"][..., None, :]).sum(-1)
    torch.testing.assert_close(scan_2dmamba(**inputs), want, rtol=1e-12, atol=1e-12)


def test_2dmamba_is_two_selective_scans():
    """With one state: along rows with C = 1, then down columns with delta B x = g."""
    x, dt, A, B, C, D, dt_bias = make_inputs("2dmamba", 2, 4, 6, 3, 1).values()

    def scan_rows(x, dt, C):
        dt, one, C = dt.flatten(0, 1)[:, :, None], torch.ones_like(C), C.flatten(0, 1)[:, :, None]
        one = one.flatten(0, 1)[:, :, None]
        return selective_scan(x.flatten(0, 1), dt, A[None], one, C, dt_bias=dt_bias[None])

    delta = torch.nn.functional.softplus(dt + dt_bias)
    g = scan_rows(B * x, dt, torch.ones_like(C)).view_as(x)
    column = [t.transpose(1, 2) for t in (g / delta, dt, C)]
    want = scan_rows(*column).view(2, 6, 4, 3).transpose(1, 2) + D * x
    torch.testing.assert_close(
        scan_2dmamba(x, dt, A, B, C, D, dt_bias=dt_bias), want, rtol=1e-11, atol=1e-11
    )


def test_v2m_is_its_two_passes():
    x, dt, A, B, dt2, A2, C2, D, D2, dt_bias, dt_bias2 = make_inputs("v2m", 2, 3, 5, 4, 2).values()
    u = scan_v2m_rows(x, dt, A, B, D, dt_bias=dt_bias)
    y = scan_v2m_columns(u, dt2, A2, C2, D2, dt_bias2=dt_bias2)
    want = scan_v2m(x, dt, A, B, dt2, A2, C2, D, D2, dt_bias=dt_bias, dt_bias2=dt_bias2)
    assert torch.equal(y, want)


@every_operator
def test_skip_and_bias_are_optional(name):
    function, reference, _ = OPERATORS[name]
    inputs = make_inputs(name, 2, 3, 4, 3, 2)
    inputs = {k: v for k, v in inputs.items() if k[0] != "D" and "bias" not in k}
    assert_matches(run(function, inputs), run(reference, inputs), 1e-11)


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_good_as_its_inputs(name, dtype):
    """States stay float32: only reading the inputs and writing the outputs may round."""
    function = OPERATORS[name][0]
    rounded = make_inputs(name, 2, 9, 12, 6, 2, dtype=dtype)
    exact = {k: t.detach().double().requires_grad_() for k, t in rounded.items()}
    got = run(function, rounded)
    assert all(got[k].dtype == dtype for k in got)
    roundings = 8 if name == "v2m" else 4  # the rows' result is rounded too
    assert_matches(got, run(function, exact), max(roundings * torch.finfo(dtype).eps, 2e-5))


@own_kernels
def test_gradcheck(name):
    function, _, names = OPERATORS[name]
    inputs = make_inputs(name, 1, 3, 2, 2, 2)
    positional = [a for a in names.split() if "bias" not in a]

    def call(*values):
        arguments = dict(zip(inputs, values, strict=True))
        return function(*[arguments.pop(a) for a in positional], **arguments)

    assert torch.autograd.gradcheck(call, tuple(inputs.values()))


OPS = {"2dmamba": op._2dmamba, "mamba2d": op._mamba2d}
BACKWARDS = {"2dmamba": op._2dmamba_backward, "mamba2d": op._mamba2d_backward}


@own_kernels
def test_opcheck(name):
    inputs = make_inputs(name, 2, 3, 4, 3, 2, dtype=torch.float32)
    torch.library.opcheck(OPS[name], tuple(inputs.values()))
    detached = [t.detach() for t in (inputs["x"], *inputs.values())]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(BACKWARDS[name], tuple(detached), test_utils=tests)


@every_operator
def test_compiles_without_graph_break(name):
    function = OPERATORS[name][0]
    inputs = make_inputs(name, 2, 5, 4, 3, 2, dtype=torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_matches(run(compiled, inputs), run(function, inputs), 0)


class Operator(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(**inputs)


@every_operator
def test_exports_with_dynamic_sizes(name):
    function = OPERATORS[name][0]
    inputs = {k: t.detach() for k, t in make_inputs(name, 2, 5, 4, 3, 2).items()}
    batch, H, W = (torch.export.Dim(d) for d in ("batch", "H", "W"))
    sizes = {k: {0: batch, 1: H, 2: W} if t.dim() == 4 else {} for k, t in inputs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own
        program = torch.export.export(Operator(function), (inputs,), dynamic_shapes=(sizes,))
    other = {k: t.detach() for k, t in make_inputs(name, 3, 2, 9, 3, 2).items()}
    assert torch.equal(program.module()(other), function(**other))


@own_kernels
def test_flops_counted_by_hand(name):
    """The operations of one cell with both neighbours, written out; here 2·3·4·5 cells, N = 3."""
    each = {
        # per channel: dt + bias, softplus, delta x, + D x; per state: exp(delta A), B, 2·2, C·h
        "2dmamba": (1 + 1 + 1 + 2, 2 + 1 + 2 * 2 + 2),
        # two entries; per state also the sum of both and its half
        "mamba2d": (2 * (1 + 1 + 1) + 2, 2 * (2 + 1) + 2 * 2 + 2 + 2),
    }
    back = {
        # again without read-out: 3, 7. D dy, dD; dx, ddelta, sigmoid, dz, dt_bias;
        # dy C, dC, both sweeps, decay; dB, gB, dA, ddelta
        "2dmamba": (3 + 1 + 2 + 2 + 2 + 1 + 1 + 1, 7 + 1 + 2 + 2 * 2 + 4 + 4 * 2),
        "mamba2d": (6 + 1 + 2 + 2 * (2 + 2 + 1 + 1 + 1), 12 + 1 + 2 + 2 * 2 + 1 + 2 * (2 + 4 * 2)),
    }
    inputs = make_inputs(name, 2, 3, 4, 5, 3)
    with FlopCounterMode(display=False) as counter:
        y = OPERATORS[name][0](**inputs)
    channel, state = each[name]
    assert counter.get_total_flops() == 2 * 3 * 4 * 5 * (channel + 3 * state)
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    channel, state = back[name]
    assert counter.get_total_flops() == 2 * 3 * 4 * 5 * (channel + 3 * state)


@every_operator
def test_runs_under_autocast_on_mixed_dtypes(name):
    inputs = make_inputs(name, 2, 3, 4, 5, 2, dtype=torch.float32)
    for k in MAPS + MATRICES:
        if k in inputs:
            inputs[k] = inputs[k].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = run(OPERATORS[name][0], inputs)
    assert got["y"].dtype == got["x"].dtype == torch.bfloat16
    assert got["D"].dtype == torch.float32


@every_operator
def test_any_strides(name):
    """Turned grids arrive as views."""
    function = OPERATORS[name][0]
    inputs = make_inputs(name, 2, 6, 5, 4, 3)
    turned = {
        k: t.detach().transpose(1, 2).contiguous().transpose(1, 2) if t.dim() == 4 else t.detach()
        for k, t in inputs.items()
    }
    turned = {k: t.requires_grad_() for k, t in turned.items()}
    assert_matches(run(function, turned), run(function, inputs), 1e-14)


@every_operator
def test_same_bits_in_every_run(name):
    inputs = make_inputs(name, 3, 14, 15, 32, 2, dtype=torch.float32)
    first = run(OPERATORS[name][0], inputs)
    for _ in range(3):
        again = run(OPERATORS[name][0], inputs)
        assert all(torch.equal(first[k], again[k]) for k in first)


@every_operator
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(name, bad):
    inputs = make_inputs(name, 3, 5, 6, 4, 2, dtype=torch.float32)
    clean = run(OPERATORS[name][0], inputs)
    spoilt = inputs["x"].detach().clone()
    spoilt[1, 2, 3] = bad
    got = run(OPERATORS[name][0], {**inputs, "x": spoilt.requires_grad_()})
    assert not got["y"][1].isfinite().all()
    for k in ("y", *(k for k in inputs if k in MAPS + MATRICES)):
        assert torch.equal(got[k][[0, 2]], clean[k][[0, 2]]), k


@own_kernels
def test_states_that_vanish_come_back(name):
    """Decays below the smallest float: a division by them would give inf or NaN."""
    function, reference, _ = OPERATORS[name]
    inputs = make_inputs(name, 1, 12, 12, 2, 2, dtype=torch.float32)
    for k in inputs:
        if k in DECAYS:
            inputs[k] = torch.full_like(inputs[k], -300.0).requires_grad_()
    exact = {k: t.detach().double().requires_grad_() for k, t in inputs.items()}
    assert_matches(run(function, inputs), run(reference, exact), 1e-5)


@every_operator
def test_nothing_to_scan(name):
    inputs = make_inputs(name, 0, 3, 4, 2, 1)
    got = run(OPERATORS[name][0], inputs)
    assert got["y"].shape == (0, 3, 4, 2)
    assert not got["D"].any()


def test_backends_are_told(monkeypatch):
    assert backends()["recurrence_2d"]["cpu"] == "streaming torch"
    told = op.describe_backend(torch.device("cuda"))
    assert told.startswith("Triton kernel; streaming torch for few samples and channels")
    monkeypatch.setattr(_triton, "FOUND", False)
    assert op.describe_backend(torch.device("cuda")) == "streaming torch: triton is not installed"


GRID, STATE = (2, 3, 4, 5), (2, 3, 4, 2)


@pytest.mark.parametrize(
    ("name", "bad", "value", "sentence"),
    [
        ("2dmamba", "x", torch.zeros(3, 4, 5), r"x has shape \(3, 4, 5\), expected 4 dimensions"),
        ("2dmamba", "x", torch.zeros(2, 3, 4, 6), "x has 6 channels, A was made for 5"),
        ("2dmamba", "A", torch.zeros(1, 5, 2), r"A has shape \(1, 5, 2\), expected 2 dimensions"),
        ("2dmamba", "dt", torch.zeros(2, 3, 4, 1), r"dt has shape .*, expected \(2, 3, 4, 5\)"),
        ("2dmamba", "B", torch.zeros(GRID), r"B has shape .*, expected \(2, 3, 4, 2\)"),
        ("2dmamba", "C", torch.zeros(STATE).int(), "C has dtype torch.int32, expected a float"),
        ("2dmamba", "D", torch.zeros(5, device="meta"), "D is on meta, x is on cpu"),
        ("2dmamba", "dt_bias", torch.zeros(1, 5), r"dt_bias has shape .*, expected \(5,\)"),
        ("mamba2d", "x", torch.zeros(2, 3, 4, 6), "x has 6 channels, A_top was made for 5"),
        ("mamba2d", "A_left", torch.zeros(5, 3), r"A_left has shape .*, expected \(5, 2\)"),
        ("mamba2d", "dt_top", torch.zeros(2, 4, 3, 5), r"dt_top has shape .*, expected \(2, 3, 4"),
        ("mamba2d", "B_left", torch.zeros(GRID), r"B_left has shape .*, expected \(2, 3, 4, 2\)"),
        ("mamba2d", "dt_bias_left", torch.zeros(2), r"dt_bias_left has .*, expected \(5,\)"),
        ("v2m", "x", torch.zeros(2, 3, 4, 6), "x has 6 channels, A was made for 5"),
        ("v2m", "B", torch.zeros(GRID), r"B has shape .*, expected \(2, 3, 4, 2\)"),
        ("v2m", "A2", torch.zeros(6, 2), "u has 5 channels, A2 was made for 6"),
        ("v2m", "C2", torch.zeros(GRID), r"C2 has shape .*, expected \(2, 3, 4, 2\)"),
        ("v2m", "D2", torch.zeros(4), r"D2 has shape \(4,\), expected \(5,\)"),
    ],
)
def test_bad_arguments_are_named(name, bad, value, sentence):
    inputs = make_inputs(name, 2, 3, 4, 5, 2, dtype=torch.float32) | {bad: value}
    with pytest.raises(ValueError, match=sentence):
        OPERATORS[name][0](**inputs)
