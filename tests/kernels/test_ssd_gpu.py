"""The Triton kernels of SSD against the definition: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from test_ssd import assert_matches, convert, leaves, make_ssd, run

from statescan.kernels import ssd
from statescan.kernels.ssd import chunked, gpu, gradients, op, ssd_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_triton(monkeypatch):
    """Every test runs on the Triton kernels, wherever the tensors are."""
    monkeypatch.setattr(op, "on_triton", lambda *inputs: True)


@pytest.fixture(autouse=True)
def whole_chunks(monkeypatch):
    """The interpreter's time goes with the number of operations, not with their sizes."""
    if DEVICE == "cpu":
        monkeypatch.setattr(gpu, "FORWARD_STEPS", gpu.CHUNK)
        monkeypatch.setattr(gpu, "BACKWARD_STEPS", gpu.CHUNK)


def on_device(inputs):
    """The same numbers where the kernels run, as new leaves."""
    moved = {name: t.detach().to(DEVICE) for name, t in inputs.items()}
    return moved | {name: t.requires_grad_() for name, t in leaves(moved).items()}


def both(inputs, merge=True):
    """Results of the kernels in the inputs' dtype, and of the definition in float64."""
    want = run(ssd_reference, convert(inputs, torch.float64), merge=merge)
    got = run(ssd, on_device(inputs), merge=merge)
    return {name: t.cpu() for name, t in got.items()}, want


CASES = [
    # batch, length, H, P, K, G, N, own_x, steps, merge
    pytest.param(2, 9, 1, 5, 2, 1, 3, False, None, True, id="B2-L9-K2"),
    pytest.param(1, 9, 4, 1, 1, 2, 1, False, None, True, id="two-groups-of-two-heads"),
    pytest.param(1, 5, 1, 2, 2, 1, 2, False, None, False, id="apart"),
    pytest.param(1, 5, 1, 2, 2, 1, 2, True, None, True, id="own-x"),
    pytest.param(1, 5, 1, 2, 2, 1, 2, True, 3, False, id="own-x-apart-part-of-the-grid"),
    pytest.param(1, 8, 1, 2, 2, 1, 2, False, 5, True, id="part-of-the-grid"),
    pytest.param(1, 130, 1, 2, 1, 1, 2, False, None, True, id="three-chunks"),
    pytest.param(1, 3, 1, 33, 1, 1, 20, False, None, True, id="P33-N20"),
    pytest.param(1, 3, 1, 2, 1, 1, 256, False, None, True, id="N256"),
    pytest.param(1, 1, 1, 1, 1, 1, 1, False, None, True, id="all-ones"),
]


@pytest.mark.parametrize(
    ("batch", "length", "H", "P", "K", "G", "N", "own_x", "steps", "merge"), CASES
)
def test_equals_reference(batch, length, H, P, K, G, N, own_x, steps, merge):
    inputs = make_ssd(batch, length, H, P, K, G, N, own_x, steps, dtype=torch.float32)
    got, want = both(inputs, merge)
    assert_matches(got, want, 2e-5)


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
def test_routes_that_repeat_positions_and_take_no_step(merge):
    routes = torch.tensor([[0, 2, -1, 2, 4, 0], [-1, -1, -1, -1, -1, -1], [3, 3, 3, 1, -1, 4]])
    inputs = make_ssd(2, 5, 1, 2, 3, 1, 2, routes=routes, dtype=torch.float32)
    got, want = both(inputs, merge)
    assert_matches(got, want, 2e-5)


def test_parts_of_a_chunk(monkeypatch):
    """The blocks of a GPU, which the other tests leave out."""
    monkeypatch.setattr(gpu, "FORWARD_STEPS", 32)
    monkeypatch.setattr(gpu, "BACKWARD_STEPS", 16)
    got, want = both(make_ssd(1, 50, 1, 2, 1, 1, 2, dtype=torch.float32))
    assert_matches(got, want, 2e-5)


@pytest.mark.parametrize("programs", [1, 2, 3], ids="{}-parts".format)
def test_heads_of_a_group_are_shared_out(programs, monkeypatch):
    monkeypatch.setattr(gpu, "processors", lambda device: 1)
    monkeypatch.setattr(gpu, "PROGRAMS_A_PROCESSOR", programs)
    got, want = both(make_ssd(1, 4, 3, 2, 1, 1, 2, dtype=torch.float32))
    assert_matches(got, want, 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_good_as_its_inputs(dtype):
    got, want = both(make_ssd(1, 9, 2, 3, 2, 1, 4, dtype=dtype))
    assert all(t.dtype == dtype for t in got.values())
    assert_matches(got, want, 8 * torch.finfo(dtype).eps)


def test_no_weak_decay_drowns_in_a_strong_one():
    inputs = make_ssd(1, 64, 1, 2, 1, 1, 2, dtype=torch.float32)
    inputs["dt"] = torch.full((1, 64, 1, 1), -3.0).requires_grad_()
    inputs["dt"].data[0, 0] = 1e6
    inputs["routes"] = torch.arange(64)[None]
    got, want = both(inputs)
    error = (got["y"] - want["y"])[0, 1:].abs().max()
    assert error < 1e-6 * want["y"][0, 1:].abs().max()


def test_step_sizes_far_beyond_softplus_linear_range():
    inputs = make_ssd(1, 70, 1, 2, 1, 1, 2, dtype=torch.float32)
    inputs["dt"] = torch.linspace(-1e4, 1e4, 70).view(1, 70, 1, 1).requires_grad_()
    got, want = both(inputs)
    assert all(value.isfinite().all() for value in got.values())
    assert_matches(got, want, 1e-5)


@pytest.mark.parametrize("given", [{"D"}, {"dt_bias"}], ids=["D", "dt_bias"])
def test_skip_and_bias_are_optional(given):
    inputs = make_ssd(1, 4, 1, 2, 1, 1, 2, dtype=torch.float32)
    inputs = {n: t for n, t in inputs.items() if n not in {"D", "dt_bias"} - given}
    got, want = both(inputs)
    assert_matches(got, want, 2e-5)


def test_states_are_those_of_the_chunked_path():
    """So that either backward pass can follow either forward pass."""
    inputs = make_ssd(1, 70, 1, 2, 2, 1, 3, dtype=torch.float32)
    *tensors, routes = [t.detach().to(DEVICE) for t in inputs.values()]
    y, saved = gpu.forward(*tensors, routes, True, True)
    want = chunked.forward(*tensors, routes, True)[1]
    assert (saved.shape, saved.dtype) == (want.shape, want.dtype)
    torch.testing.assert_close(saved, want, rtol=1e-5, atol=1e-5)
    ours = gpu.backward(y, want, *tensors, routes, True, True)
    theirs = gradients.backward(y, saved, *tensors, routes, True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_views_are_read_in_place():
    """dt, B and C are usually parts of one projection."""
    inputs = on_device(make_ssd(2, 6, 1, 3, 1, 1, 2, dtype=torch.float32))
    parts = [inputs[n].flatten(3) for n in ("dt", "B", "C")]
    dt, B, C = torch.cat(parts, dim=-1).detach().split([1, 2, 2], dim=-1)
    assert all(gpu.in_rows(t) is t for t in (dt, B, C))
    views = inputs | {"dt": dt, "B": B.unsqueeze(3), "C": C.unsqueeze(3)}
    assert torch.equal(ssd(**views), ssd(**inputs))


def test_steps_that_leave_the_image_are_none_where_nobody_looked():
    """While a graph is traced, and in it, nobody can: kernels must not read or write there."""
    inputs = make_ssd(1, 6, 1, 2, 2, 1, 1, dtype=torch.float32)
    *tensors, routes = [t.detach().to(DEVICE) for t in inputs.values()]
    wrong, right = routes.clone(), routes.clone()
    wrong[0, 2], wrong[1, 4], right[0, 2], right[1, 4] = 6, -7, -1, -1
    y, _ = gpu.forward(*tensors, wrong, True, False)
    assert torch.equal(y, gpu.forward(*tensors, right, True, False)[0])


def test_a_wrong_claim_of_a_permutation_is_refused():
    inputs = make_ssd(1, 4, 1, 1, 1, 1, 1, routes=torch.tensor([[0, 1, 1, 3]]))
    with pytest.raises(ValueError, match="routes visits some of the 4 positions more than once"):
        ssd(**inputs, permutation=True)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_in_their_sample(bad):
    inputs = on_device(make_ssd(3, 4, 1, 2, 1, 1, 2, dtype=torch.float32))
    clean = run(ssd, inputs)
    spoilt = inputs["x"].detach().clone()
    spoilt[1, 2] = bad
    got = run(ssd, inputs | {"x": spoilt.requires_grad_()})
    assert not got["y"][1].isfinite().all()
    for name in ("y", "x", "dt", "B", "C"):
        assert torch.equal(got[name][[0, 2]], clean[name][[0, 2]])


@pytest.mark.parametrize("steps", [None, 5], ids=["permutation", "part-of-the-grid"])
def test_same_bits_in_every_run(steps):
    inputs = on_device(make_ssd(1, 9, 2, 3, 2, 1, 2, steps=steps, dtype=torch.float32))
    first = run(ssd, inputs)
    for _ in range(10 if DEVICE == "cuda" else 1):
        again = run(ssd, inputs)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_nothing_to_do():
    for sizes in ((0, 3, 2, 3, 1, 1, 2), (1, 3, 2, 0, 1, 1, 2), (1, 3, 1, 2, 1, 1, 0)):
        got, want = both(make_ssd(*sizes, dtype=torch.float32))
        assert_matches(got, want, 2e-5)


def test_opcheck():
    inputs = on_device(make_ssd(1, 4, 1, 2, 1, 1, 2, dtype=torch.float32))
    torch.library.opcheck(op._forward, (*inputs.values(), True, True))
