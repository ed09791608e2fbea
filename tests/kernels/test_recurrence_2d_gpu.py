"""2DMamba's and Mamba2D's Triton kernels against the definitions: on a GPU, or interpreted."""

import pytest
import torch
from gpu_timing import poisoned
from recurrence_problems import DECAYS, MAPS, MATRICES, OPERATORS, make_inputs, run
from scan_problems import assert_matches

from statescan.kernels import _triton
from statescan.kernels.recurrence_2d import gpu, op, streaming

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = {"COLUMNS": 3, "COLUMNS_BACK": 2, "ROWS": 2}  # small, so that small grids have several
OPS = {"2dmamba": op._2dmamba, "mamba2d": op._mamba2d}
both_operators = pytest.mark.parametrize("name", OPS)


@pytest.fixture(autouse=True)
def on_triton(monkeypatch):
    """Every test runs on the Triton kernels, wherever the tensors are, in small tiles."""
    monkeypatch.setattr(op, "backend", lambda *inputs, N: gpu)
    for constant, value in TILE.items():
        monkeypatch.setattr(gpu, constant, value)


def on_device(inputs):
    return {n: t.detach().to(DEVICE).requires_grad_() for n, t in inputs.items()}


def compare(name, inputs, tolerance):
    """Results of the kernels in the inputs' dtypes, which match the definition's in float64."""
    function, reference, _ = OPERATORS[name]
    exact = {n: t.detach().double().requires_grad_() for n, t in inputs.items()}
    with poisoned():
        got = {n: t.cpu() for n, t in run(function, on_device(inputs)).items()}
    assert_matches(got, run(reference, exact), tolerance)
    return got


SIZES = [
    # batch, H, W, channels, N
    (1, 1, 1, 1, 1),
    (2, 1, 6, 3, 2),
    (1, 7, 1, 2, 3),
    (1, 3, 3, 33, 1),
    (1, 5, 5, 2, 1),
    pytest.param(1, 2, 2, 2, 5, id="N5 in groups of 3"),
    pytest.param(1, 2, 2, 2, 20, id="N20 in groups of 4"),
]


@both_operators
@pytest.mark.parametrize(("batch", "H", "W", "channels", "N"), SIZES)
def test_equals_reference(name, batch, H, W, channels, N):
    compare(name, make_inputs(name, batch, H, W, channels, N, dtype=torch.float32), 2e-6)


@both_operators
def test_equals_reference_in_the_tiles_that_are_used(name, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(op, "backend", lambda *inputs, N: gpu)
    assert gpu.ROWS < 9
    assert gpu.COLUMNS_BACK < 5
    compare(name, make_inputs(name, 1, 9, 5, 2, 1, dtype=torch.float32), 2e-6)


@both_operators
@pytest.mark.parametrize(("dtype", "N"), [(torch.bfloat16, 5), (torch.float16, 2)], ids=str)
def test_low_precision_is_as_good_as_its_inputs(name, dtype, N):
    """However many groups of states there are: what they add up is float32."""
    inputs = make_inputs(name, 1, 2, 3, 4, N, dtype=dtype)
    got = compare(name, inputs, 2 * torch.finfo(dtype).eps)
    assert all(t.dtype == dtype for t in got.values())


@both_operators
def test_views_are_read_in_place(name):
    """B and C are usually parts of one projection."""
    inputs = {n: t.detach().to(DEVICE) for n, t in make_inputs(name, 2, 3, 4, 3, 2).items()}
    inputs = {n: t.float() for n, t in inputs.items()}
    names = [n for n in inputs if n in MATRICES]
    whole = torch.cat([inputs[n] for n in names], dim=-1)
    parts = dict(zip(names, whole.split(2, dim=-1), strict=True))
    assert all(gpu.rows(t).data_ptr() == t.data_ptr() for t in parts.values())
    function = OPERATORS[name][0]
    assert torch.equal(function(**{**inputs, **parts}), function(**inputs))


@both_operators
def test_turned_grids(name):
    inputs = on_device(make_inputs(name, 1, 3, 2, 3, 2, dtype=torch.float32))
    turned = {
        n: t.detach().transpose(1, 2).contiguous().transpose(1, 2) if t.dim() == 4 else t.detach()
        for n, t in inputs.items()
    }
    turned = {n: t.requires_grad_() for n, t in turned.items()}
    function = OPERATORS[name][0]
    assert_matches(run(function, turned), run(function, inputs), 0)


@both_operators
def test_same_bits_in_every_run(name):
    inputs = on_device(make_inputs(name, 1, 2, 3, 40, 1, dtype=torch.float32))
    first = run(OPERATORS[name][0], inputs)
    for _ in range(10 if DEVICE == "cuda" else 1):
        again = run(OPERATORS[name][0], inputs)
        assert all(torch.equal(first[n], again[n]) for n in first)


@both_operators
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(name, bad):
    inputs = on_device(make_inputs(name, 2, 2, 3, 2, 1, dtype=torch.float32))
    clean = run(OPERATORS[name][0], inputs)
    spoilt = inputs["x"].detach().clone()
    spoilt[0, 0, 1] = bad
    got = run(OPERATORS[name][0], {**inputs, "x": spoilt.requires_grad_()})
    assert not got["y"][0].isfinite().all()
    for n in ("y", *(n for n in inputs if n in MAPS + MATRICES)):
        assert torch.equal(got[n][1], clean[n][1]), n


@both_operators
def test_states_that_vanish_come_back(name):
    """Decays below the smallest float."""
    inputs = make_inputs(name, 1, 4, 3, 2, 1, dtype=torch.float32)
    inputs |= {n: torch.full_like(t, -300.0) for n, t in inputs.items() if n in DECAYS}
    compare(name, inputs, 1e-5)


@both_operators
def test_what_grows_beyond_the_grid_is_not_added(name):
    """Cells of the last strip that lie beyond the last column take no step."""
    inputs = make_inputs(name, 1, 1, 4, 2, 1, dtype=torch.float32)
    inputs |= {n: torch.full_like(t, 40.0) for n, t in inputs.items() if n in DECAYS}
    inputs |= {n: torch.full_like(t, 5.0) for n, t in inputs.items() if "bias" in n}
    inputs |= {n: torch.full_like(t, -9.0) for n, t in inputs.items() if n in MAPS and n != "x"}
    compare(name, inputs, 1e-5)


@both_operators
def test_runs_under_autocast_on_mixed_dtypes(name):
    inputs = make_inputs(name, 1, 2, 3, 4, 2, dtype=torch.float32)
    inputs |= {n: t.bfloat16() for n, t in inputs.items() if n in MAPS + MATRICES}
    with torch.autocast(DEVICE, torch.bfloat16):
        got = run(OPERATORS[name][0], on_device(inputs))
    assert {n: t.dtype for n, t in got.items() if n != "y"} == {
        n: t.dtype for n, t in inputs.items()
    }


@both_operators
def test_opcheck(name):
    inputs = on_device(make_inputs(name, 1, 2, 3, 2, 1, dtype=torch.float32))
    torch.library.opcheck(OPS[name], tuple(inputs.values()))


@both_operators
def test_nothing_to_scan(name):
    got = run(OPERATORS[name][0], on_device(make_inputs(name, 0, 3, 4, 2, 5, dtype=torch.float32)))
    assert got["y"].shape == (0, 3, 4, 2)
    assert not got["D"].any()


@pytest.mark.parametrize(
    ("batch", "channels", "N", "module"),
    [(1, 192, 1, streaming), (1, 192, 20, streaming), (2, 192, 16, gpu), (6, 192, 1, gpu)],
)
def test_few_programs_are_left_to_torch(batch, channels, N, module, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(_triton, "serves", lambda *inputs: True)
    monkeypatch.setattr(gpu, "processors", lambda device: 132)
    x = torch.empty(batch, 56, 56, channels, device="meta")
    assert op.backend(x, N=N) is module


def test_torch_serves_what_triton_does_not(monkeypatch):
    monkeypatch.undo()
    x = torch.empty(128, 56, 56, 192, device="meta")
    assert op.backend(x, N=16) is streaming
    monkeypatch.setattr(_triton, "serves", lambda *inputs: True)
    assert op.backend(x, N=0) is streaming
