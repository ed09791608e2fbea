"""The selective scan: every backend against the definition, in value and gradient."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scan_problems import NAMES, assert_matches, make_inputs, run
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _c, backends
from statescan.kernels.selective_scan import (
    op,
    selective_scan,
    selective_scan_reference,
    selective_scan_states,
    streaming,
)

assert _c.library(), f"{_c.PATH} was not built or does not load; here, there is a C compiler"
SETS = _c.INSTRUCTION_SETS[_c.INSTRUCTION_SETS.index(_c.instruction_set()) :]
BACKENDS = [*SETS, "streaming"]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, monkeypatch):
    """Every test runs on all CPU backends of this machine."""
    if request.param == "streaming":
        monkeypatch.setattr(_c, "library", lambda: None)
    else:
        monkeypatch.setattr(_c, "instruction_set", lambda: request.param)
    return request.param


CASES = [
    # batch, length, channels, K, N, rank, own_x, steps
    pytest.param(2, 63, 8, 4, 1, None, False, None, id="B2-L63-C8-K4-N1"),
    pytest.param(1, 65, 3, 2, 5, 2, False, None, id="B1-L65-C3-K2-N5-R2"),
    pytest.param(3, 12, 5, 3, 2, 1, True, None, id="B3-L12-C5-K3-N2-R1-own-x"),
    pytest.param(2, 20, 4, 2, 1, None, False, 7, id="B2-L20-C4-K2-N1-part-of-the-grid"),
    pytest.param(1, 1, 1, 1, 1, None, False, None, id="B1-L1-C1-K1-N1"),
    pytest.param(1, 2, 7, 1, 16, 3, True, None, id="B1-L2-C7-K1-N16-R3-own-x"),
]


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
@pytest.mark.parametrize(("batch", "length", "channels", "K", "N", "rank", "own_x", "steps"), CASES)
def test_streaming_equals_reference(batch, length, channels, K, N, rank, own_x, steps, merge):
    inputs, routes = make_inputs(batch, length, channels, K, N, rank, own_x, steps)
    want = run(selective_scan_reference, inputs, routes, merge)
    assert_matches(run(selective_scan, inputs, routes, merge), want, 1e-12)


@st.composite
def problems(draw):
    """Sizes, rank of dt, whether each route has its own x, and routes of any kind."""
    sizes = draw(st.tuples(*[st.integers(1, n) for n in (3, 70, 5, 3, 3)]))
    length, K, steps = sizes[1], sizes[3], draw(st.integers(1, 70))
    entries = st.lists(st.integers(-1, length - 1), min_size=steps, max_size=steps)
    routes = draw(st.lists(entries, min_size=K, max_size=K))
    return sizes, draw(st.sampled_from([None, 1, 3])), draw(st.booleans()), routes


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(problems())
@example(((1, 1, 1, 1, 1), None, False, [[-1]]))
def test_any_routes(problem):
    """Routes may repeat positions, leave some out, and take no step."""
    sizes, rank, own_x, routes = problem
    inputs, _ = make_inputs(*sizes, rank, own_x)
    want = run(selective_scan_reference, inputs, torch.tensor(routes))
    assert_matches(run(selective_scan, inputs, torch.tensor(routes)), want, 1e-11)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(problems(), st.sampled_from(DTYPES))
def test_any_routes_in_any_dtype(problem, dtype):
    sizes, rank, own_x, routes = problem
    rounded, _ = make_inputs(*sizes, rank, own_x, dtype=dtype)
    exact = {name: t.detach().double().requires_grad_() for name, t in rounded.items()}
    got = run(selective_scan, rounded, torch.tensor(routes))
    want = run(selective_scan_reference, exact, torch.tensor(routes))
    assert_matches(got, want, max(8 * torch.finfo(dtype).eps, 1e-4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_low_precision_is_as_good_as_its_inputs(dtype):
    """States stay float32: only reading the inputs and writing the outputs may round."""
    rounded, routes = make_inputs(2, 130, 6, 4, 2, rank=2, dtype=dtype)
    exact = {name: t.detach().double().requires_grad_() for name, t in rounded.items()}
    got = run(selective_scan, rounded, routes)
    want = run(selective_scan, exact, routes)
    assert all(got[name].dtype == dtype for name in got)
    assert_matches(got, want, max(4 * torch.finfo(dtype).eps, 2e-5))


@pytest.mark.parametrize("name", NAMES)
def test_one_input_in_float64_makes_the_states_float64(name):
    inputs, routes = make_inputs(2, 70, 3, 2, 2, rank=2, dtype=torch.float32)
    exact = {key: t.detach().double() for key, t in inputs.items()}
    inputs[name] = exact[name]
    arguments = [inputs[key].detach() for key in NAMES]
    _, saved = op._forward(*arguments, routes, True, True)
    _, want = op._forward(*(exact[key] for key in NAMES), routes, True, True)
    assert saved.dtype == torch.float64
    torch.testing.assert_close(saved, want, rtol=1e-12, atol=1e-12)
    torch.library.opcheck(
        op._forward, (*arguments, routes, True, True), test_utils="test_faketensor"
    )


def test_positions_nobody_visits_are_zero():
    inputs, _ = make_inputs(1, 5, 2, 1, 1)
    y = selective_scan(**inputs, routes=torch.tensor([[0, 3]]))
    assert y[:, [1, 2, 4]].abs().max() == 0
    assert y[:, [0, 3]].abs().min() > 0


def test_routes_default_to_the_order_of_the_positions():
    inputs, _ = make_inputs(2, 9, 3, 1, 2)
    want = selective_scan(**inputs, routes=torch.arange(9)[None])
    assert torch.equal(selective_scan(**inputs), want)


def test_skip_and_bias_are_optional():
    inputs, routes = make_inputs(2, 9, 3, 2, 2)
    del inputs["D"], inputs["dt_bias"]
    want = run(selective_scan_reference, inputs, routes)
    assert_matches(run(selective_scan, inputs, routes), want, 1e-12)


def test_same_bits_in_every_run():
    inputs, routes = make_inputs(3, 200, 16, 4, 2, rank=3, dtype=torch.float32)
    first = run(selective_scan, inputs, routes)
    for _ in range(5):
        again = run(selective_scan, inputs, routes)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_openmp_the_bits_are_the_same(monkeypatch):
    inputs, routes = make_inputs(3, 90, 150, 4, 2, dtype=torch.float32)
    want = run(selective_scan, inputs, routes)
    monkeypatch.setattr(_c, "openmp", lambda: None)
    got = run(selective_scan, inputs, routes)
    assert all(torch.equal(want[name], got[name]) for name in want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad):
    inputs, routes = make_inputs(3, 80, 4, 2, 2, dtype=torch.float32)
    clean = selective_scan(**inputs, routes=routes)
    spoilt = inputs["x"].detach().clone()
    spoilt[1, 40] = bad
    y = selective_scan(**{**inputs, "x": spoilt}, routes=routes)
    assert not y[1].isfinite().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


def test_step_sizes_far_beyond_softplus_linear_range():
    inputs, routes = make_inputs(1, 20, 4, 2, 2, dtype=torch.float32)
    inputs["dt"] = torch.linspace(-1e4, 1e4, 160).view(1, 20, 2, 4).requires_grad_()
    got = run(selective_scan, inputs, routes)
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    assert all(value.isfinite().all() for value in got.values())
    assert_matches(got, run(selective_scan_reference, exact, routes), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_large_activations_stay_finite(dtype):
    """States are float32: activations of 1e4 times B and C of 1 fit, as long as the result does."""
    inputs, routes = make_inputs(2, 70, 6, 4, 2, rank=2, dtype=torch.float32)
    inputs = {name: t.detach() for name, t in inputs.items()}
    inputs["x"] = inputs["x"].sign() * 1e4
    inputs["B"], inputs["C"] = inputs["B"] * 1e-2, inputs["C"] * 1e-2
    inputs = {name: t.to(dtype).requires_grad_() for name, t in inputs.items()}
    with torch.autocast("cpu", dtype):
        y = selective_scan(**inputs, routes=routes, merge=False)
    grads = torch.autograd.grad(y.float().mean(), list(inputs.values()))
    assert all(value.isfinite().all() for value in (y, *grads))


def test_growing_states_are_right():
    """A may be positive: then the state grows, to infinity where the definition's does."""
    inputs, routes = make_inputs(1, 20, 4, 2, 2)
    inputs["A"] = inputs["A"].detach().abs().requires_grad_()
    want = run(selective_scan_reference, inputs, routes)
    assert_matches(run(selective_scan, inputs, routes), want, 1e-11)
    inputs["A"] = (inputs["A"].detach() * 1e6).requires_grad_()
    grown = selective_scan(**inputs, routes=routes)
    assert torch.equal(grown.isinf(), selective_scan_reference(**inputs, routes=routes).isinf())


def test_no_position_is_refused():
    inputs, _ = make_inputs(2, 1, 4, 1, 2, dtype=torch.float32)
    inputs = {n: t[:, :0] if n in ("x", "dt", "B", "C") else t for n, t in inputs.items()}
    with pytest.raises(ValueError, match="expected at least one step"):
        selective_scan(**inputs)


@pytest.mark.parametrize("own_x", [False, True], ids=["shared-x", "own-x"])
def test_states_are_what_the_readout_reads(own_x):
    """For one state n, reading out with C = 1 at n and 0 elsewhere gives that state."""
    inputs, routes = make_inputs(2, 30, 5, 3, 4, rank=2, own_x=own_x)
    C, _ = inputs.pop("C"), inputs.pop("D")
    h = selective_scan_states(**inputs, routes=routes)
    assert h.shape == (2, 30, 3, 5, 4)
    for n in range(4):
        one = torch.zeros_like(C)
        one[..., n] = 1
        want = selective_scan_reference(**inputs, C=one, routes=routes, merge=False)
        assert (h[..., n] - want).abs().max() < 1e-12
    y = torch.einsum("blkcn,blkn->blc", h, C)
    assert (y - selective_scan(**inputs, C=C, routes=routes)).abs().max() < 1e-12
    (grad,) = torch.autograd.grad(h.sum(), inputs["dt"])
    assert grad.abs().min() > 0


@pytest.mark.parametrize("rank", [None, 3], ids=["dt", "low-rank-dt"])
def test_flops_are_counted(rank):
    batch, length, channels, K, N = 2, 70, 6, 4, 5
    inputs, routes = make_inputs(batch, length, channels, K, N, rank, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = selective_scan(**inputs, routes=routes)
    visits = batch * K * length * channels
    delta = (1 if rank is None else 2 * rank) + 1  # with its bias; softplus
    state = 1 + 1 + 1 + 1 + 1  # delta A, exp, times h, delta x times B, sum
    readout = 2  # times C, sum
    entering, skip, into_y = 1, 2, 1
    forward = visits * (delta + entering + skip + into_y + N * (state + readout))
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    own = 3 + 1 + 5 * 2  # gradient of the state, decay times state; x, delta, A, B, C
    rest = 1 + 3 + 4 + 2 + 1  # sigmoid; before softplus, x, D, bias
    dt = 1 if rank is None else 4 * rank
    backward = visits * (delta + entering + rest + dt + N * (state + own))
    assert counter.get_total_flops() == backward


def test_softplus_is_accurate_at_both_ends():
    z = torch.linspace(-80, 80, 200_001)
    want = torch.nn.functional.softplus(z.double(), threshold=1000)
    assert ((streaming.softplus(z) - want).abs() / want).max() < 5e-6
    ends = streaming.softplus(torch.tensor([-torch.inf, torch.inf]))
    assert ends.tolist() == [0, torch.inf]


@pytest.mark.parametrize("rank", [None, 2], ids=["dt", "low-rank-dt"])
def test_opcheck(rank):
    inputs, routes = make_inputs(2, 70, 3, 2, 2, rank, dtype=torch.float32)
    arguments = [inputs.get(name) for name in NAMES]
    torch.library.opcheck(op._forward, (*arguments, routes, True, True))


def test_compiles_without_graph_break():
    inputs, routes = make_inputs(2, 70, 3, 2, 2, rank=2, dtype=torch.float32)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    assert_matches(run(compiled, inputs, routes), run(selective_scan, inputs, routes), 0)


def test_runs_under_autocast_on_mixed_dtypes():
    inputs, routes = make_inputs(2, 30, 4, 2, 1, rank=2, dtype=torch.float32)
    for name in ("x", "dt", "B", "C"):
        inputs[name] = inputs[name].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = run(selective_scan, inputs, routes)
    assert got["y"].dtype == got["x"].dtype == torch.bfloat16
    assert got["A"].dtype == torch.float32


def test_backends_are_told(backend, monkeypatch):
    told = backends()["selective_scan"]["cpu"]
    if backend == "streaming":
        assert told.startswith("streaming torch")
    else:
        assert told == f"C kernel ({_c.PATH.name}, {backend})"
    monkeypatch.setattr(_c, "library", lambda: None)
    monkeypatch.setattr(_c, "PATH", _c.PATH.with_name("none.so"))
    assert backends()["selective_scan"]["cpu"] == "streaming torch: none.so not built"


def test_very_many_states():
    """More than the C kernel has room for are the streaming path's."""
    inputs, routes = make_inputs(1, 3, 2, 1, 600)
    want = run(selective_scan_reference, inputs, routes)
    assert_matches(run(selective_scan, inputs, routes), want, 1e-11)
    assert op.backend(inputs["x"], N=600) is streaming


def test_any_number_of_threads_gives_the_same_bits(backend):
    """But for parameters on the streaming path: torch's sums over the batch depend on threads."""
    inputs, routes = make_inputs(3, 90, 150, 4, 2, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        results.append(run(selective_scan, inputs, routes))
    torch.set_num_threads(threads)
    exact = ("y", "x", "B", "C") if backend == "streaming" else results[0]
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in exact)


def scan_in_a_child(queue, inputs, routes):
    queue.put(selective_scan(**inputs, routes=routes).detach().sum().item())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_works_in_a_forked_process():
    inputs, routes = make_inputs(2, 90, 150, 2, 1, dtype=torch.float32)
    want = selective_scan(**inputs, routes=routes).sum().item()
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    detached = {name: t.detach() for name, t in inputs.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    child = context.Process(target=scan_in_a_child, args=(queue, detached, routes))
    child.start()
    got = queue.get(timeout=60)
    child.join()
    torch.set_num_threads(threads)
    assert got == pytest.approx(want, rel=1e-5)


def replace(name, value):
    return lambda inputs: inputs.update({name: value})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (replace("x", torch.zeros(2, 9, 5)), "x has 5 channels, A was made for 4"),
        (replace("x", torch.zeros(9, 4)), r"x has shape \(9, 4\), expected 3 or 4 dimensions"),
        (
            replace("A", torch.zeros(2, 4, 0)),
            r"A has shape \(2, 4, 0\), expected at least one state",
        ),
        (replace("dt", torch.zeros(2, 9, 3, 4)), r"dt has shape .*, expected \(2, 9, 2, 4\)"),
        (replace("B", torch.zeros(2, 9, 2, 7)), r"B has shape .*, expected \(2, 9, 2, 3\)"),
        (replace("C", torch.zeros(2, 9, 2, 3).long()), "C has dtype torch.int64, expected a float"),
        (replace("D", torch.zeros(2, 4, device="meta")), "D is on meta, x is on cpu"),
        (replace("dt_weight", torch.zeros(4, 2)), r"dt_weight has .*, expected \(2, 4, 2\)"),
        (replace("dt_weight", torch.zeros(2, 4, 2)), r"dt has shape .*, expected \(2, 9, 2, 2\)"),
        (replace("routes", torch.zeros(3, 9).int()), r"routes has shape .*, expected \(2, 9\)"),
        (replace("routes", torch.zeros(2, 9)), "routes has dtype torch.float32, expected an int"),
        (replace("routes", torch.full((2, 9), 9)), r"routes holds 9, expected positions in \[0, 9"),
        (replace("routes", torch.full((2, 9), -2)), "routes holds -2, expected positions"),
        (replace("routes", torch.zeros(2, 0).int()), "expected at least one step"),
    ],
)
def test_bad_arguments_are_named(change, sentence):
    inputs, routes = make_inputs(2, 9, 4, 2, 3, dtype=torch.float32)
    inputs["routes"] = routes
    change(inputs)
    with pytest.raises(ValueError, match=sentence):
        selective_scan(**inputs)
