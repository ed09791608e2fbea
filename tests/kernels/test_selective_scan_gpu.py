"""The Triton selective scan against the definition: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_problems import NAMES, assert_matches, make_inputs, run

from statescan.kernels.selective_scan import gpu, op, selective_scan, selective_scan_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_triton(monkeypatch):
    """Every test runs on the Triton kernels, wherever the tensors are."""
    monkeypatch.setattr(op, "backend", lambda *inputs, N=1: gpu)


def both(inputs, routes, merge=True, **kwargs):
    """Results of the kernels in the inputs' dtype, and of the definition in float64."""
    exact = {n: t.detach().double().requires_grad_() for n, t in inputs.items()}
    want = run(selective_scan_reference, exact, routes, merge)
    moved = {n: t.detach().to(DEVICE).requires_grad_() for n, t in inputs.items()}
    got = run(selective_scan, moved, routes.to(DEVICE), merge, **kwargs)
    return {n: t.cpu() for n, t in got.items()}, want


CASES = [
    # batch, length, channels, K, N, rank, own_x, steps
    pytest.param(2, 9, 8, 2, 1, None, False, None, id="B2-L9-C8-K2-N1"),
    pytest.param(1, 70, 3, 1, 1, 2, False, None, id="B1-L70-C3-K1-N1-R2"),
    pytest.param(1, 5, 33, 2, 3, 2, True, None, id="B1-L5-C33-K2-N3-R2-own-x"),
    pytest.param(1, 7, 70, 1, 16, None, False, None, id="B1-L7-C70-K1-N16"),
    pytest.param(2, 8, 4, 2, 2, None, False, 5, id="B2-L8-C4-K2-N2-part-of-the-grid"),
    pytest.param(1, 1, 1, 1, 1, None, False, None, id="B1-L1-C1-K1-N1"),
]


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
@pytest.mark.parametrize(("batch", "length", "channels", "K", "N", "rank", "own_x", "steps"), CASES)
def test_equals_reference(batch, length, channels, K, N, rank, own_x, steps, merge):
    inputs, routes = make_inputs(
        batch, length, channels, K, N, rank, own_x, steps, dtype=torch.float32
    )
    got, want = both(inputs, routes, merge)
    assert_matches(got, want, 2e-5)


@pytest.mark.parametrize("rank", [None, 2], ids=["dt", "low-rank-dt"])
@pytest.mark.parametrize(("length", "N"), [(150, 1), (130, 2)], ids=["L150-N1", "L130-N2"])
def test_routes_cut_into_segments(monkeypatch, length, N, rank):
    """Three segments of one chunk each, the last a short one."""
    monkeypatch.setattr(gpu, "processors", lambda device: 1000)
    monkeypatch.setattr(gpu, "SHORTEST", 1)
    inputs, routes = make_inputs(1, length, 3, 1, N, rank, dtype=torch.float32)
    arguments = [inputs.get(n) for n in NAMES]
    call = gpu.Call(*arguments, routes, True, True, backward=True)
    assert (call.segments, call.segment_chunks) == (3, 1)
    got, want = both(inputs, routes)
    assert_matches(got, want, 2e-5)


def test_many_states_are_scanned_in_groups(monkeypatch):
    """In two chunks: the second starts from saved states."""
    monkeypatch.setattr(gpu, "MOST_STATES", 2)
    inputs, routes = make_inputs(1, 66, 2, 1, 3, dtype=torch.float32)
    got, want = both(inputs, routes)
    assert_matches(got, want, 2e-5)


def test_a_dt_of_high_rank_is_expanded_first(monkeypatch):
    monkeypatch.setattr(gpu, "MOST_RANK", 2)
    inputs, routes = make_inputs(2, 6, 5, 2, 1, 3, dtype=torch.float32)
    got, want = both(inputs, routes)
    assert_matches(got, want, 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_good_as_its_inputs(dtype):
    inputs, routes = make_inputs(2, 9, 6, 2, 2, rank=2, dtype=dtype)
    got, want = both(inputs, routes)
    assert all(t.dtype == dtype for t in got.values())
    assert_matches(got, want, 8 * torch.finfo(dtype).eps)


@st.composite
def problems(draw):
    """Sizes, rank of dt, whether each route has its own x, and routes of any kind."""
    sizes = draw(st.tuples(*[st.integers(1, n) for n in (2, 9, 5, 2, 2)]))
    length, K, steps = sizes[1], sizes[3], draw(st.integers(1, 9))
    entries = st.lists(st.integers(-1, length - 1), min_size=steps, max_size=steps)
    routes = draw(st.lists(entries, min_size=K, max_size=K))
    options = draw(st.sampled_from([None, 1, 3])), draw(st.booleans()), draw(st.booleans())
    return sizes, *options, routes


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(problems())
def test_any_routes(problem):
    """Routes may repeat positions, leave some out, and take no step."""
    sizes, rank, own_x, merge, routes = problem
    inputs, _ = make_inputs(*sizes, rank, own_x, dtype=torch.float32)
    got, want = both(inputs, torch.tensor(routes), merge)
    assert_matches(got, want, 3e-5)


def test_steps_that_leave_the_image_are_none_where_nobody_looked():
    """While a graph is traced, and in it, nobody can: kernels must not read or write there."""
    inputs, routes = make_inputs(1, 6, 3, 2, 1, dtype=torch.float32)
    arguments = [inputs.get(n) for n in NAMES]
    arguments = [None if t is None else t.detach().to(DEVICE) for t in arguments]
    wrong, right = routes.clone().to(DEVICE), routes.clone().to(DEVICE)
    wrong[0, 2], wrong[1, 4], right[0, 2], right[1, 4] = 6, -7, -1, -1
    y, _ = gpu.forward(*arguments, wrong, True, False)
    assert torch.equal(y, gpu.forward(*arguments, right, True, False)[0])


def test_a_wrong_claim_of_a_permutation_is_refused():
    inputs, _ = make_inputs(1, 4, 3, 1, 1, dtype=torch.float32)
    with pytest.raises(ValueError, match="routes visits some of the 4 positions more than once"):
        selective_scan(**inputs, routes=torch.tensor([[0, 1, 1, 3]]), permutation=True)


def test_a_changed_table_is_looked_at_again():
    inputs, _ = make_inputs(1, 4, 3, 1, 1, dtype=torch.float32)
    inputs = {n: t.detach().to(DEVICE) for n, t in inputs.items()}
    table = torch.arange(4, device=DEVICE)[None].clone()
    selective_scan(**inputs, routes=table, permutation=True)
    table[0, 3] = 9
    with pytest.raises(ValueError, match=r"routes holds 9, expected positions in \[0, 4\) or -1"):
        selective_scan(**inputs, routes=table)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad):
    inputs, routes = make_inputs(3, 8, 4, 2, 2, dtype=torch.float32)
    inputs = {n: t.detach().to(DEVICE) for n, t in inputs.items()}
    routes = routes.to(DEVICE)
    clean = selective_scan(**inputs, routes=routes)
    spoilt = inputs["x"].clone()
    spoilt[1, 4] = bad
    y = selective_scan(**{**inputs, "x": spoilt}, routes=routes)
    assert not y[1].isfinite().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_step_sizes_far_beyond_softplus_linear_range():
    inputs, routes = make_inputs(1, 10, 4, 2, 2, dtype=torch.float32)
    inputs["dt"] = torch.linspace(-1e4, 1e4, 80).view(1, 10, 2, 4).requires_grad_()
    got, want = both(inputs, routes)
    assert all(value.isfinite().all() for value in got.values())
    assert_matches(got, want, 1e-5)


def test_small_step_sizes_keep_their_precision():
    """log2(1 + u) of a small u must not lose what rounding 1 + u loses."""
    inputs, routes = make_inputs(1, 6, 4, 1, 1, dtype=torch.float32)
    inputs["dt"] = torch.linspace(-16, -4, 24).view(1, 6, 1, 4).requires_grad_()
    inputs["D"] = torch.zeros_like(inputs["D"]).requires_grad_()
    inputs["dt_bias"] = torch.zeros_like(inputs["dt_bias"]).requires_grad_()
    exact = {n: t.detach().double() for n, t in inputs.items()}
    want = selective_scan_reference(**exact, routes=routes)
    moved = {n: t.detach().to(DEVICE) for n, t in inputs.items()}
    got = selective_scan(**moved, routes=routes.to(DEVICE)).cpu()
    assert ((got - want) / want).abs().max() < 1e-5


def test_views_are_read_in_place():
    """dt, B and C are usually parts of one projection."""
    inputs, routes = make_inputs(2, 6, 4, 2, 1, rank=3, dtype=torch.float32)
    whole = torch.cat([inputs[n] for n in ("dt", "B", "C")], dim=-1).detach().to(DEVICE)
    parts = dict(zip(("dt", "B", "C"), whole.split((3, 1, 1), dim=-1), strict=True))
    assert all(gpu.in_rows(t) is t for t in parts.values())
    moved = {n: t.detach().to(DEVICE) for n, t in inputs.items()}
    want = selective_scan(**moved, routes=routes.to(DEVICE))
    assert torch.equal(selective_scan(**{**moved, **parts}, routes=routes.to(DEVICE)), want)


def test_same_bits_in_every_run():
    inputs, routes = make_inputs(2, 12, 40, 2, 2, rank=3, dtype=torch.float32)
    inputs = {n: t.detach().to(DEVICE).requires_grad_() for n, t in inputs.items()}
    first = run(selective_scan, inputs, routes.to(DEVICE))
    for _ in range(10 if DEVICE == "cuda" else 2):
        again = run(selective_scan, inputs, routes.to(DEVICE))
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_runs_under_autocast_on_mixed_dtypes():
    inputs, routes = make_inputs(1, 6, 4, 2, 1, rank=2, dtype=torch.float32)
    inputs = {n: t.detach().to(DEVICE) for n, t in inputs.items()}
    for name in ("x", "dt", "B", "C"):
        inputs[name] = inputs[name].bfloat16()
    inputs = {n: t.requires_grad_() for n, t in inputs.items()}
    with torch.autocast(DEVICE, torch.bfloat16):
        got = run(selective_scan, inputs, routes.to(DEVICE))
    assert got["y"].dtype == got["x"].dtype == torch.bfloat16
    assert got["A"].dtype == got["dt_weight"].dtype == torch.float32


@pytest.mark.parametrize("rank", [None, 2], ids=["dt", "low-rank-dt"])
def test_opcheck(rank):
    inputs, routes = make_inputs(1, 6, 3, 2, 2, rank, dtype=torch.float32)
    arguments = [inputs.get(n) for n in NAMES]
    arguments = [None if t is None else t.detach().to(DEVICE).requires_grad_() for t in arguments]
    torch.library.opcheck(op._forward, (*arguments, routes.to(DEVICE), True, True))
