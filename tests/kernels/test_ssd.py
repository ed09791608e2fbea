"""State-space duality, causal and not: each operator against its definition and its papers."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from statescan.kernels import _arguments, backends, noncausal_ssd, selective_scan, ssd
from statescan.kernels.noncausal_ssd import noncausal_ssd_reference, products
from statescan.kernels.noncausal_ssd import op as noncausal_op
from statescan.kernels.ssd import chunked, ssd_reference
from statescan.kernels.ssd import op as ssd_op

REFERENCES = {ssd: ssd_reference, noncausal_ssd: noncausal_ssd_reference}
OPERATORS = pytest.mark.parametrize("function", REFERENCES, ids=["ssd", "noncausal"])


def random_tensors(seed, dtype, **shapes):
    """Normal numbers of given shapes, but A negative; all require gradients."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=rng, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    tensors["A"] = -tensors["A"].abs()
    return {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}


def make_ssd(
    batch, length, H, P, K, G, N, own_x=False, steps=None, dtype=torch.float64, routes=None
):
    """Random arguments of `ssd`, routes among them."""
    tensors = random_tensors(
        0,
        dtype,
        x=(batch, length, K, H, P) if own_x else (batch, length, H, P),
        dt=(batch, length, K, H),
        A=(K, H),
        B=(batch, length, K, G, N),
        C=(batch, length, K, G, N),
        D=(K, H),
        dt_bias=(K, H),
    )
    rng = torch.Generator().manual_seed(1)
    orders = [torch.randperm(length, generator=rng)[:steps] for _ in range(K)]
    return tensors | {"routes": torch.stack(orders).int() if routes is None else routes}


def make_noncausal(batch, length, H, P, N, dtype=torch.float64):
    """Random arguments of `noncausal_ssd`."""
    return random_tensors(
        0,
        dtype,
        x=(batch, length, H, P),
        dt=(batch, length, H),
        A=(H,),
        B=(batch, length, N),
        C=(batch, length, N),
        D=(H,),
        dt_bias=(H,),
    )


def make(function, batch=2, length=70, dtype=torch.float64):
    """Random arguments of either operator at sizes that are odd where they can be."""
    if function is ssd:
        return make_ssd(batch, length, 4, 3, 2, 2, 5, dtype=dtype)
    return make_noncausal(batch, length, 3, 5, 4, dtype=dtype)


def leaves(inputs):
    return {name: t for name, t in inputs.items() if t.is_floating_point()}


def convert(inputs, dtype):
    """The same numbers in another dtype, as new leaves."""
    floats = leaves(inputs).items()
    return inputs | {name: t.detach().to(dtype).requires_grad_() for name, t in floats}


def run(function, inputs, **options):
    """Output and gradients of every input for a fixed random gradient of the output."""
    y = function(**inputs, **options)
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=rng, dtype=torch.float64).to(y.dtype)
    floats = leaves(inputs)
    if y.requires_grad:
        grads = torch.autograd.grad(y, list(floats.values()), dy, materialize_grads=True)
    else:  # the definition, where no route takes a step: y depends on no input
        grads = [torch.zeros_like(leaf) for leaf in floats.values()]
    return {"y": y.detach()} | dict(zip(floats, grads, strict=True))


def assert_matches(got, want, tolerance):
    for name, value in want.items():
        if value.numel() == 0:
            assert got[name].shape == value.shape
            continue
        error = (got[name].double() - value.double()).abs().max()
        scale = value.double().abs().max().clamp_min(1)
        assert error <= tolerance * scale, f"{name}: {error:.1e} of {scale:.1e}"


SSD_CASES = [
    # batch, length, H, P, K, G, N, own_x, steps
    pytest.param(2, 63, 4, 3, 2, 2, 5, False, None, id="B2-L63-H4-P3-K2-G2-N5"),
    pytest.param(1, 130, 3, 2, 1, 1, 4, False, None, id="B1-L130-H3-P2-K1-G1-N4"),
    pytest.param(3, 65, 6, 1, 2, 3, 1, True, None, id="B3-L65-H6-P1-K2-G3-N1-own-x"),
    pytest.param(2, 20, 2, 7, 4, 2, 3, False, 7, id="B2-L20-H2-P7-K4-G2-N3-part-of-the-grid"),
    pytest.param(1, 1, 1, 1, 1, 1, 1, False, None, id="B1-L1-H1-P1-K1-G1-N1"),
    pytest.param(1, 2, 2, 3, 3, 1, 9, True, None, id="B1-L2-H2-P3-K3-G1-N9-own-x"),
]


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
@pytest.mark.parametrize(("batch", "length", "H", "P", "K", "G", "N", "own_x", "steps"), SSD_CASES)
def test_ssd_equals_reference(batch, length, H, P, K, G, N, own_x, steps, merge):
    inputs = make_ssd(batch, length, H, P, K, G, N, own_x, steps)
    want = run(ssd_reference, inputs, merge=merge)
    assert_matches(run(ssd, inputs, merge=merge), want, 1e-12)


@pytest.mark.parametrize(
    ("batch", "length", "H", "P", "N"),
    [
        pytest.param(2, 63, 3, 5, 4, id="B2-L63-H3-P5-N4"),
        pytest.param(3, 7, 1, 8, 2, id="B3-L7-H1-P8-N2"),
        pytest.param(1, 200, 4, 1, 16, id="B1-L200-H4-P1-N16"),
        pytest.param(1, 1, 1, 1, 1, id="B1-L1-H1-P1-N1"),
        pytest.param(2, 0, 2, 3, 4, id="B2-L0-H2-P3-N4"),
        pytest.param(0, 5, 2, 3, 4, id="B0-L5-H2-P3-N4"),
    ],
)
def test_noncausal_equals_reference(batch, length, H, P, N):
    inputs = make_noncausal(batch, length, H, P, N)
    want = run(noncausal_ssd_reference, inputs)
    assert_matches(run(noncausal_ssd, inputs), want, 1e-12)


@st.composite
def problems(draw):
    """Sizes, whether each route has its own x, and routes of any kind."""
    sizes = draw(st.tuples(*[st.integers(1, n) for n in (3, 70, 2, 3, 3, 3, 3)]))
    batch, length, R, P, K, G, N = sizes
    steps = draw(st.integers(1, 140))
    entries = st.lists(st.integers(-1, length - 1), min_size=steps, max_size=steps)
    routes = draw(st.lists(entries, min_size=K, max_size=K))
    return (batch, length, R * G, P, K, G, N), draw(st.booleans()), draw(st.booleans()), routes


@settings(max_examples=20, deadline=None, derandomize=True)
@given(problems())
@example(((1, 1, 1, 1, 1, 1, 1), False, True, [[-1]]))
def test_any_routes(problem):
    """Routes may repeat positions, leave some out, and take no step."""
    sizes, own_x, merge, routes = problem
    inputs = make_ssd(*sizes, own_x, routes=torch.tensor(routes))
    want = run(ssd_reference, inputs, merge=merge)
    assert_matches(run(ssd, inputs, merge=merge), want, 1e-11)


def test_heads_of_one_channel_are_a_selective_scan():
    """Mamba's A for each channel and state, here the same for all states of a channel."""
    inputs = make_ssd(2, 90, 6, 1, 3, 1, 4)
    as_scan = lambda x, A, B, C, **rest: selective_scan(  # noqa: E731
        x=x[..., 0], A=A[..., None].expand(-1, -1, 4), B=B[..., 0, :], C=C[..., 0, :], **rest
    )[..., None]
    assert_matches(run(ssd, inputs), run(as_scan, inputs), 1e-12)


def test_noncausal_ignores_the_order_of_positions():
    inputs = make_noncausal(2, 30, 3, 2, 4)
    turned = {name: t.flip(1) if t.dim() > 1 else t for name, t in inputs.items()}
    want = noncausal_ssd(**inputs).flip(1)
    assert_matches({"y": noncausal_ssd(**turned)}, {"y": want}, 1e-12)


@OPERATORS
def test_gradcheck(function):
    inputs = make(function, batch=1, length=3)
    names = list(leaves(inputs))
    rest = {name: t for name, t in inputs.items() if name not in names}
    with_names = lambda *t: function(**dict(zip(names, t, strict=True)), **rest)  # noqa: E731
    assert torch.autograd.gradcheck(with_names, [inputs[name] for name in names])


@OPERATORS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_good_as_its_inputs(function, dtype):
    """States and sums are float32: only reading the inputs and writing the outputs may round."""
    rounded = make(function, length=130, dtype=dtype)
    got = run(function, rounded)
    want = run(function, convert(rounded, torch.float64))
    assert all(got[name].dtype == dtype for name in got)
    assert_matches(got, want, max(4 * torch.finfo(dtype).eps, 2e-5))


@pytest.fixture
def narrow(monkeypatch):
    """Where a GPU's narrow products run: there, or as exact products of rounded factors."""
    if torch.cuda.is_available() and products.has_wide_products(torch.device("cuda")):
        return "cuda"
    monkeypatch.setattr(products, "has_wide_products", lambda device: True)
    monkeypatch.setattr(products, "wide_bmm", lambda a, b: torch.bmm(a.float(), b.float()))
    return "cpu"


def on(device, inputs):
    """The same numbers on a device, as new leaves."""
    return {name: t.detach().to(device).requires_grad_() for name, t in inputs.items()}


def narrow_run(device, inputs):
    """Results on a device, as on a CPU."""
    return {name: t.cpu() for name, t in run(noncausal_ssd, on(device, inputs)).items()}


LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@LOW
@pytest.mark.parametrize("wide", ["", "dt A D dt_bias", "x dt A D dt_bias"])
@pytest.mark.parametrize("sizes", [(2, 130, 3, 5, 4), (1, 1, 1, 1, 1), (3, 40, 2, 8, 16)])
def test_narrow_factors_are_as_good_as_their_type(narrow, dtype, wide, sizes):
    inputs = make_noncausal(*sizes, dtype=dtype)
    inputs |= convert({name: inputs[name] for name in wide.split()}, torch.float32)
    got = narrow_run(narrow, inputs)
    assert all(got[name].dtype == t.dtype for name, t in inputs.items())
    want = run(noncausal_ssd, convert(inputs, torch.float64))
    assert_matches(got, want, 4 * torch.finfo(dtype).eps)


@LOW
@pytest.mark.parametrize("scale", [2.0**-9, 1, 2.0**9], ids=["small", "plain", "large"])
def test_narrow_factors_keep_their_range(narrow, dtype, scale):
    """Sums over positions and gradients leave float16's range, at either end."""
    inputs = make_noncausal(2, 500, 2, 3, 4, dtype=torch.float32)
    with torch.no_grad():
        for name in ("x", "B", "C"):
            inputs[name].abs_().mul_(scale)
        inputs["D"].zero_()
    low = convert({name: inputs[name] for name in ("B", "C")}, dtype)
    inputs |= low
    got = narrow_run(narrow, inputs)
    want = run(noncausal_ssd, convert(inputs, torch.float64))
    assert scale <= 1 or want["y"].abs().max() > torch.finfo(torch.float16).max
    for name in ("y", "x", "dt", "A", "B", "C"):
        error = (got[name].double() - want[name]).abs().max()
        limit = torch.finfo(low["B"].dtype).max if name in low else torch.inf
        if want[name].abs().max() < limit:
            assert error <= 8 * torch.finfo(dtype).eps * want[name].abs().max(), name


@LOW
def test_narrow_states_are_float32(narrow, dtype):
    inputs = on(narrow, make_noncausal(2, 9, 2, 3, 4, dtype=dtype))
    y, h = noncausal_op._forward(*(t.detach() for t in inputs.values()))
    assert (y.dtype, h.dtype) == (dtype, torch.float32)


@LOW
def test_narrow_factors_of_nothing(narrow, dtype):
    inputs = make_noncausal(2, 3, 2, 3, 4, dtype=dtype)
    zero = {name: torch.zeros_like(t).requires_grad_() for name, t in inputs.items()}
    assert all(not value.any() for value in narrow_run(narrow, zero).values())
    for sizes in ((2, 0, 2, 3, 4), (0, 5, 2, 3, 4)):
        got = narrow_run(narrow, make_noncausal(*sizes, dtype=dtype))
        assert got["y"].numel() == 0
        assert not got["A"].any()


@LOW
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_narrow_factors_keep_bad_numbers_in_their_sample(narrow, dtype, bad):
    inputs = make_noncausal(3, 9, 2, 3, 4, dtype=dtype)
    clean = narrow_run(narrow, inputs)
    inputs["x"].data[1, 4] = bad
    got = narrow_run(narrow, inputs)
    assert not got["y"][1].isfinite().all()
    for name in ("y", "x", "dt", "B", "C"):
        assert torch.equal(got[name][[0, 2]], clean[name][[0, 2]])


@LOW
def test_narrow_factors_give_the_same_bits_in_every_run(narrow, dtype):
    inputs = make_noncausal(2, 200, 2, 8, 16, dtype=dtype)
    first = narrow_run(narrow, inputs)
    for _ in range(3):
        again = narrow_run(narrow, inputs)
        assert all(torch.equal(first[name], again[name]) for name in first)


@OPERATORS
def test_runs_under_autocast_on_mixed_dtypes(function):
    inputs = make(function)
    wide = convert(inputs, torch.float32)
    low = {name: t.bfloat16().detach().requires_grad_() for name, t in leaves(wide).items()}
    inputs = wide | {name: low[name] for name in ("x", "dt", "B", "C")}
    with torch.autocast("cpu", torch.bfloat16):
        got = run(function, inputs)
    assert got["y"].dtype == got["x"].dtype == torch.bfloat16
    assert got["A"].dtype == torch.float32
    assert_matches(got, run(function, inputs), 0)


@OPERATORS
def test_float64_anywhere_computes_in_float64(function):
    inputs = make(function, dtype=torch.float32)
    inputs["D"] = inputs["D"].detach().double().requires_grad_()
    got = function(**inputs)
    assert got.dtype == torch.float32
    want = function(**convert(inputs, torch.float64))
    assert torch.equal(got, want.float())


@OPERATORS
@pytest.mark.parametrize("scale", [1e4, 1e-4], ids=["large", "small"])
def test_extreme_activations_stay_finite_in_bfloat16(function, scale):
    inputs = make(function, dtype=torch.float32)
    for name in ("x", "B", "C"):
        inputs[name] = inputs[name].detach() * scale
    inputs = convert(inputs, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(function, inputs)
    assert all(value.isfinite().all() for value in got.values())
    assert_matches(got, run(function, convert(inputs, torch.float64)), 2**-6)


@OPERATORS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_step_sizes_far_beyond_softplus_linear_range(function, dtype):
    inputs = make(function, dtype=dtype)
    dt = inputs["dt"]
    rng = torch.Generator().manual_seed(0)
    spread = torch.linspace(-1e4, 1e4, dt.numel())[torch.randperm(dt.numel(), generator=rng)]
    inputs["dt"] = spread.view(dt.shape).to(dtype).requires_grad_()
    got = run(function, inputs)
    want = run(REFERENCES[function], convert(inputs, torch.float64))
    assert all(value.isfinite().all() for value in got.values())
    assert_matches(got, want, max(4 * torch.finfo(dtype).eps, 1e-5))


@pytest.mark.parametrize("dt", [0.0, 0.5, 3.0], ids=["bounded", "large", "overflows"])
def test_states_that_grow_are_what_the_definition_gives(dt):
    """With A > 0, zeros before the first input stay zeros, and infinite is where it should be."""
    inputs = make_ssd(1, 130, 2, 3, 1, 1, 2, dtype=torch.float32)
    inputs = {name: t.detach() for name, t in inputs.items()} | {"D": None}
    inputs["dt"] = torch.full_like(inputs["dt"], dt)
    inputs["A"], inputs["B"], inputs["C"] = (inputs[name].abs() for name in "ABC")
    inputs["x"] = inputs["x"].abs()
    inputs["routes"] = torch.arange(130)[None]
    inputs["x"][:, :100] = 0
    got, want = ssd(**inputs), ssd_reference(**inputs)
    assert torch.equal(got[:, :100], want[:, :100])
    assert want[:, :100].abs().max() == 0
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def test_gradients_of_states_that_grow():
    inputs = make_ssd(2, 70, 2, 3, 2, 1, 2)
    inputs["A"] = (-0.1 * inputs["A"].detach()).requires_grad_()
    assert_matches(run(ssd, inputs), run(ssd_reference, inputs), 1e-12)


def test_no_weak_decay_drowns_in_a_strong_one():
    """A difference of running sums would lose the digits that the small steps need."""
    inputs = make_ssd(1, 64, 1, 2, 1, 1, 2, dtype=torch.float32)
    inputs["dt"] = torch.full((1, 64, 1, 1), -3.0).requires_grad_()
    inputs["dt"].data[0, 0] = 1e6
    inputs["routes"] = torch.arange(64)[None]
    want = run(ssd_reference, convert(inputs, torch.float64))
    got = run(ssd, inputs)
    later = (got["y"] - want["y"])[0, 1:].abs().max() / want["y"][0, 1:].abs().max()
    assert later < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_running_sum_on_a_gpu_and_on_a_cpu(steps):
    t = torch.randn(2, steps, 3, dtype=torch.float64)
    elsewhere = t.as_subclass(type("Elsewhere", (torch.Tensor,), {"device": torch.device("cuda")}))
    got = chunked.running_sum(elsewhere).as_subclass(torch.Tensor)
    torch.testing.assert_close(got, chunked.running_sum(t), rtol=1e-12, atol=1e-12)


def test_blocks_of_samples_give_the_same_numbers(monkeypatch):
    inputs = make(ssd, batch=5)
    want = run(ssd, inputs)
    monkeypatch.setattr(chunked, "BLOCK", 2 * 64 * 64 * 8)  # two samples at a time
    assert len(list(chunked.blocks(chunked.flatten(**inputs, merge=True), 5))) == 3
    assert_matches(run(ssd, inputs), want, 1e-13)


def test_blocks_fill_a_gpu():
    inputs = chunked.flatten(**make(ssd, batch=5), merge=True)
    elsewhere = inputs._replace(A=inputs.A.to("meta"))
    rows = chunked.CHUNK * max(chunked.CHUNK * inputs.A.numel(), 2 * inputs.x.shape[1])
    size = chunked.GPU_BLOCK // rows
    assert list(chunked.blocks(elsewhere, size + 1)) == [slice(0, size), slice(size, size + 1)]


@pytest.mark.parametrize("given", [True, False], ids=["given", "by-default"])
def test_a_table_is_looked_at_once(given, monkeypatch):
    """On a GPU a look waits for everything before it."""
    looks = []
    look = _arguments._look
    monkeypatch.setattr(_arguments, "_look", lambda *table: looks.append(table) or look(*table))
    inputs = make_ssd(1, 1000 + given, 2, 2, 1, 1, 3, dtype=torch.float32)
    if not given:
        del inputs["routes"]
    for _ in range(2):
        ssd(**inputs).sum().backward()
    assert len(looks) == 1


def test_tables_made_in_inference_serve_training():
    with torch.inference_mode():
        inputs = make_ssd(1, 11, 2, 2, 1, 1, 3)
        del inputs["routes"]
        ssd(**inputs)
    inputs = make_ssd(1, 11, 2, 2, 1, 1, 3)
    del inputs["routes"]
    ssd(**inputs).sum().backward()


def test_positions_nobody_visits_are_zero():
    inputs = make_ssd(1, 5, 2, 2, 1, 1, 1, routes=torch.tensor([[0, 3]]))
    y = ssd(**inputs)
    assert y[:, [1, 2, 4]].abs().max() == 0
    assert y[:, [0, 3]].abs().min() > 0


def test_steps_not_taken_read_nothing():
    """Step -1 must not even multiply what lies at some position by zero."""
    inputs = make_ssd(1, 9, 2, 2, 1, 1, 3, routes=torch.tensor([[4, -1, 5, -1, 8]]))
    want = run(ssd, inputs)
    for name in ("x", "dt", "B", "C"):
        inputs[name].data[:, 0] = float("nan")
    got = run(ssd, inputs)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_routes_default_to_the_order_of_the_positions():
    inputs = make_ssd(2, 9, 4, 3, 1, 2, 2, routes=torch.arange(9)[None])
    want = ssd(**inputs)
    del inputs["routes"]
    assert torch.equal(ssd(**inputs), want)


@OPERATORS
@pytest.mark.parametrize("absent", [("D",), ("dt_bias",), ("D", "dt_bias")], ids="-".join)
def test_skip_and_bias_are_optional(function, absent):
    inputs = make(function)
    for name in absent:
        del inputs[name]
    want = run(REFERENCES[function], inputs)
    assert_matches(run(function, inputs), want, 1e-12)


@OPERATORS
def test_any_strides(function):
    inputs = make(function)
    strided = inputs | {
        name: t.detach().mT.contiguous().mT.requires_grad_()
        for name, t in leaves(inputs).items()
        if t.dim() > 1
    }
    assert_matches(run(function, strided), run(function, inputs), 1e-13)


@OPERATORS
def test_same_bits_in_every_run(function):
    inputs = make(function, batch=3, length=200, dtype=torch.float32)
    first = run(function, inputs)
    for _ in range(5):
        again = run(function, inputs)
        assert all(torch.equal(first[name], again[name]) for name in first)


@OPERATORS
@pytest.mark.parametrize("name", ["x", "dt", "B", "C"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_stay_in_their_sample(function, name, bad):
    inputs = make(function, batch=3, dtype=torch.float32)
    clean = run(function, inputs)
    spoilt = inputs[name].detach().clone()
    spoilt[1, 40] = bad
    got = run(function, inputs | {name: spoilt.requires_grad_()})
    if (name, bad) != ("dt", -float("inf")):  # a step of no size
        assert not got["y"][1].isfinite().all()
    for value in ("y", "x", "dt", "B", "C"):
        assert torch.equal(got[value][[0, 2]], clean[value][[0, 2]])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@OPERATORS
def test_opcheck(function):
    inputs = make(function, dtype=torch.float32)
    op, options = (ssd_op, (True, False)) if function is ssd else (noncausal_op, ())
    torch.library.opcheck(op._forward, (*inputs.values(), *options))
    inputs |= {"D": None, "dt_bias": None}
    torch.library.opcheck(op._forward, (*inputs.values(), *options))


@OPERATORS
def test_compiles_without_graph_break(function):
    inputs = make(function, dtype=torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_matches(run(compiled, inputs), run(function, inputs), 0)


class Layer(torch.nn.Module):
    """An operator as a module, with the parameters of `make`."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        inputs = make(function, dtype=torch.float32)
        for name in ("A", "D", "dt_bias"):
            setattr(self, name, torch.nn.Parameter(inputs[name].detach()))

    def forward(self, x, dt, B, C):
        return self.function(x, dt, self.A, B, C, self.D, dt_bias=self.dt_bias)


@OPERATORS
def test_exports_with_any_batch_and_length(function):
    def arguments(batch, length):
        inputs = (
            make_ssd(batch, length, 4, 3, 1, 2, 5, dtype=torch.float32)
            if function is ssd
            else make(function, batch, length, torch.float32)
        )
        return tuple(inputs[name].detach() for name in ("x", "dt", "B", "C"))

    layer = Layer(function)
    if function is ssd:  # one route, so that its default is part of what is exported
        for name in ("A", "D", "dt_bias"):
            setattr(layer, name, torch.nn.Parameter(getattr(layer, name)[:1].detach()))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = [{0: batch, 1: length}] * 4
    program = torch.export.export(layer, arguments(2, 70), dynamic_shapes=shapes).module()
    for sizes in ((3, 129), (2, 5)):
        assert torch.equal(program(*arguments(*sizes)), layer(*arguments(*sizes)))


def count(function, inputs):
    """FLOPs that torch counts in the forward and in the backward pass."""
    with FlopCounterMode(display=False) as forward:
        y = function(**inputs)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("optional", [True, False], ids=["skip-and-bias", "neither"])
def test_flops_of_noncausal_ssd(optional):
    batch, length, H, P, N = 2, 7, 3, 5, 4
    inputs = make_noncausal(batch, length, H, P, N)
    if not optional:
        del inputs["D"], inputs["dt_bias"]
    skip = bias = int(optional)
    positions = batch * length
    heads, channels = positions * H, positions * H * P
    states = channels * N

    delta = heads * bias + heads  # dt + dt_bias, softplus
    w = heads  # delta · -A
    wx = channels
    h = 2 * states  # B ⊗ wx, summed over positions
    y = 2 * states + 2 * channels * skip  # C · h summed over states; D · x, added
    forward = delta + w + wx + h + y

    dh = dwx = dB = dC = 2 * states  # four products of matrices
    dx = channels + 2 * channels * skip  # dwx · w; dy · D, added
    dD = 2 * channels * skip  # dy · x, summed
    dw = 2 * channels  # dwx · x, summed over a head
    dA = 2 * heads  # dw · delta, summed
    ddt = 3 * heads  # dw · -A, sigmoid, their product
    dbias = heads * bias
    backward = delta + w + wx + dh + dwx + dB + dC + dx + dD + dw + dA + ddt + dbias
    assert count(noncausal_ssd, inputs) == (forward, backward)


@pytest.mark.parametrize("optional", [True, False], ids=["skip-and-bias", "neither"])
@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
def test_flops_of_ssd(optional, merge):
    batch, H, P, K, G, N, steps = 2, 4, 3, 2, 2, 5, 6
    inputs = make_ssd(batch, 7, H, P, K, G, N, steps=steps)
    if not optional:
        del inputs["D"], inputs["dt_bias"]
    skip = bias = int(optional)
    heads = batch * K * steps * H
    channels, states = heads * P, heads * P * N

    delta = heads * bias + heads  # dt + dt_bias, softplus
    a = 2 * heads  # exp(delta · A)
    u = channels  # delta · x
    h = 3 * states  # a · h, B ⊗ u, their sum
    y = 2 * states + 2 * channels * skip  # C · h summed over states; D · x, added
    visit = channels  # added to what the position has
    forward = delta + a + u + h + y + visit

    dh = 3 * states  # a · dh of the next step, C ⊗ dy, their sum
    dC = dB = du = da = 2 * states  # dy · h, dh · u, dh · B and a · dh · h, each summed
    dx = channels + 2 * channels * skip + channels  # du · delta; dy · D, added; at its position
    dD = 2 * channels * skip  # dy · x, summed
    ddelta = 2 * channels + 2 * heads  # du · x, summed over a head; da · A, added
    dA = 2 * heads  # da · delta, summed
    ddt = 2 * heads + heads  # sigmoid, product; added at its position
    dbias = heads * bias
    again = delta + a + u + h
    backward = again + dh + dC + dB + du + da + dx + dD + ddelta + dA + ddt + dbias
    assert count(lambda **kw: ssd(**kw, merge=merge), inputs) == (forward, backward)


def test_backends_are_told(monkeypatch):
    monkeypatch.setattr(ssd_op._triton, "FOUND", True)
    told = backends()
    assert told["ssd"]["cpu"] == "chunked torch"
    assert told["noncausal_ssd"]["cpu"] == "matrix products in torch"
    gpu = torch.device("cuda")
    assert ssd_op.describe_backend(gpu) == "Triton kernel"
    products_there = noncausal_op.describe_backend(gpu)
    assert ("tensor cores" in products_there) == products.has_wide_products(gpu)


def test_a_torch_without_wide_products_multiplies_float32(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    B = torch.empty(1, 2, 3, dtype=torch.bfloat16)
    assert products.factor_dtype(B, B, torch.float32) == torch.float32
    assert "in float32" in noncausal_op.describe_backend(torch.device("cuda"))


def zeros(name, *shape, **options):
    return {name: torch.zeros(shape, **options)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (zeros("x", 2, 9, 5, 3), "x has 5 heads, A was made for 4"),
        (zeros("x", 2, 9, 4), r"x has shape \(2, 9, 4\), expected 4 or 5 dimensions"),
        (zeros("x", 2, 9, 3, 4, 3), r"x has shape .*, expected \(2, 9, 2, 4, 3\)"),
        (zeros("x", 2, 0, 4, 3), r"x has shape .*, expected at least one position"),
        (zeros("dt", 2, 9, 3, 4), r"dt has shape .*, expected \(2, 9, 2, 4\)"),
        (zeros("A", 2, 4, 1), r"A has shape \(2, 4, 1\), expected 2 dimensions"),
        (zeros("B", 2, 9, 2, 3, 5), "B has 3 groups, expected a divisor of the 4 heads"),
        (zeros("B", 2, 9, 2, 5), r"B has shape .*, expected 5 dimensions"),
        (zeros("B", 2, 8, 2, 2, 5), r"B has shape .*, expected \(2, 9, 2, 2, 5\)"),
        (zeros("C", 2, 9, 2, 2, 6), r"C has shape .*, expected \(2, 9, 2, 2, 5\)"),
        (zeros("C", 2, 9, 2, 2, 5, dtype=torch.int64), "C has dtype torch.int64, expected a float"),
        (zeros("D", 2, 4, device="meta"), "D is on meta, x is on cpu"),
        (zeros("dt_bias", 4), r"dt_bias has shape \(4,\), expected \(2, 4\)"),
        (zeros("routes", 3, 9, dtype=torch.int32), r"routes has shape .*, expected \(2, 9\)"),
        (zeros("routes", 2, 9), "routes has dtype torch.float32, expected an int"),
        ({"routes": torch.full((2, 9), 9)}, r"routes holds 9, expected positions in \[0, 9"),
        ({"routes": torch.full((2, 9), -2)}, "routes holds -2, expected positions"),
        (zeros("routes", 2, 0, dtype=torch.int32), "expected at least one step"),
        ({"routes": None}, r"routes has shape \(1, 9\), expected \(2, 9\)"),
    ],
)
def test_bad_arguments_of_ssd_are_named(change, sentence):
    inputs = make_ssd(2, 9, 4, 3, 2, 2, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match=sentence):
        ssd(**inputs | change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (zeros("x", 2, 9, 5, 3), "x has 5 heads, A was made for 4"),
        (zeros("x", 2, 9, 4), r"x has shape \(2, 9, 4\), expected 4 dimensions"),
        (zeros("x", 2, 9, 4, 3, dtype=torch.int64), "x has dtype torch.int64, expected a float"),
        (zeros("dt", 2, 9, 3), r"dt has shape .*, expected \(2, 9, 4\)"),
        (zeros("A", 1, 4), r"A has shape \(1, 4\), expected 1 dimensions"),
        (zeros("B", 2, 8, 5), r"B has shape .*, expected \(2, 9, 5\)"),
        (zeros("C", 2, 9, 6), r"C has shape .*, expected \(2, 9, 5\)"),
        (zeros("D", 4, device="meta"), "D is on meta, x is on cpu"),
        (zeros("dt_bias", 2, 4), r"dt_bias has shape \(2, 4\), expected \(4,\)"),
    ],
)
def test_bad_arguments_of_noncausal_ssd_are_named(change, sentence):
    inputs = make_noncausal(2, 9, 4, 3, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match=sentence):
        noncausal_ssd(**inputs | change)


@pytest.mark.parametrize(
    ("changed", "served"),
    [
        ({}, True),
        ({"A": torch.tensor([[-1.0, 1e-9]])}, False),
        ({"dt": torch.zeros(1, 5, 1, 2, dtype=torch.float64)}, False),
    ],
    ids=["float32", "a-state-that-grows", "float64"],
)
def test_what_triton_serves(monkeypatch, changed, served):
    elsewhere = type("Elsewhere", (torch.Tensor,), {"is_cuda": True})
    inputs = leaves(make_ssd(1, 5, 2, 3, 1, 1, 2, dtype=torch.float32)) | changed
    inputs["x"] = inputs["x"].detach().as_subclass(elsewhere)
    monkeypatch.setattr(ssd_op._triton, "FOUND", True)
    assert ssd_op.on_triton(*inputs.values()) is served
    monkeypatch.setattr(ssd_op._triton, "FOUND", False)
    assert not ssd_op.on_triton(*inputs.values())
