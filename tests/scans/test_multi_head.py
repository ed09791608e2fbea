"""Scans of several heads, and the attention over routes that merges them in MHS-VM."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.scans import S6, MultiHeadS6, RouteAttention, Scan2d
from statescan.scans.routes import Reverse, Windowed, column, raster, spiral


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(module, *args, **kwargs):
    torch.manual_seed(0)
    return module(*args, **kwargs).double()


class Alternating(nn.Module):
    """Another weight for each route and channel."""

    def forward(self, y):
        K, C = y.shape[-2:]
        return (y * torch.arange(1, K * C + 1).view(K, C)).sum(-2)


def head_by_head(s6, routes, x):
    """What plain scans of each head's channels give, each route apart: (B, H, W, K, C)."""
    outputs = []
    for i, part in enumerate(x.chunk(s6.heads, -1)):
        head = S6(part.shape[-1], routes=routes[i], d_state=s6.d_state, dt_rank=s6.dt_rank).double()
        head.load_state_dict({k: v[i :: s6.heads] for k, v in s6.state_dict().items()})
        head.merge = nn.Identity()
        outputs.append(head(part))
    return torch.cat(outputs, -1)


DIFFERENT = (("serpentine",), ("diagonal",), ("spiral",))
UNEQUAL = ((Windowed(2, pad=True), column), (raster, Reverse(spiral)), (spiral, column))


@pytest.mark.parametrize("size", [(5, 4), (1, 1), (1, 6), (7, 1)], ids=str)
@pytest.mark.parametrize(
    "routes", [DIFFERENT, UNEQUAL, ("hilbert",) * 3], ids=["different", "unequal", "same"]
)
def test_heads_are_scans_of_their_own(routes, size):
    given = "hilbert" if routes[0] == "hilbert" else routes
    s6 = make(S6, 12, routes=given, heads=3, d_state=2, dt_rank=2)
    x = image(2, *size, 12)
    apart = head_by_head(s6, routes, x)
    torch.testing.assert_close(s6(x), apart.sum(3), rtol=1e-10, atol=1e-10)
    for merge, want in [("mean", apart.mean(3)), (Alternating(), Alternating()(apart))]:
        s6.merge = merge
        torch.testing.assert_close(s6(x), want, rtol=1e-10, atol=1e-10)


def test_heads_can_stay_apart():
    s6 = make(S6, 12, routes=DIFFERENT, heads=3)
    x = image(2, 3, 5, 12)
    want = head_by_head(s6, DIFFERENT, x)
    torch.testing.assert_close(s6(x, apart=True), want, rtol=1e-10, atol=1e-10)


def test_gradients_of_heads_are_those_of_their_scans():
    s6 = make(S6, 6, routes=DIFFERENT[1:], heads=2, d_state=2)
    x = image(1, 3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(s6, x)
    s6(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in s6.parameters())


def test_one_head_is_the_plain_scan():
    plain, one = make(S6, 6, d_state=2), make(S6, 6, d_state=2, heads=1, routes=[("cross",)])
    assert one.routes == plain.routes
    x = image(2, 4, 3, 6)
    assert torch.equal(one(x), plain(x))
    assert type(make(Scan2d, 8, heads=1).s6) is S6


def test_channels_that_heads_do_not_divide_are_left_to_the_projection():
    module = make(MultiHeadS6, 11, heads=3, routes=DIFFERENT, d_state=2)
    assert module.in_proj.weight.shape == (9, 11)
    x = image(2, 4, 3, 11)
    y = head_by_head(module.s6, DIFFERENT, x @ module.in_proj.weight.T).sum(3)
    y = F.layer_norm(y, (9,), module.norm.weight, module.norm.bias)
    want = y @ module.out_proj.weight.T
    torch.testing.assert_close(module(x), want, rtol=1e-10, atol=1e-10)


def test_scan2d_with_heads_equals_its_definition():
    options = {"heads": 2, "routes": DIFFERENT[:2], "gate": True, "conv_bias": True}
    scan = make(Scan2d, 40, project_out=False, **options)
    assert scan.s6.s6.dt_rank == 2  # of 20 channels
    x = image(2, 4, 5, 40)
    inner, z = scan.in_proj(x).chunk(2, dim=-1)
    inner = F.silu(scan.conv(inner.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    want = scan.norm(scan.s6(inner)) * F.silu(z)
    torch.testing.assert_close(scan(x), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"heads": 3}, "heads is 3, which does not divide the 8 channels"),
        ({"heads": 0}, "heads is 0, which does not divide the 8 channels"),
        ({"heads": 2, "routes": DIFFERENT}, "routes has 3 parts, expected one for each of 2 heads"),
        (
            {"heads": 2, "routes": (("cross",), ("raster",))},
            r"the heads have \[4, 1\] routes, expected as many for each",
        ),
        ({"heads": 2, "state_fusion": (1,)}, r"state_fusion is \(1,\), expected none with 2 heads"),
    ],
    ids=["uneven", "none", "parts", "unequal", "fusion"],
)
def test_impossible_heads_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        S6(8, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"heads": 9}, "heads is 9, expected 1 to the 8 channels"),
        ({"heads": 2, "recurrence": "v2m"}, "heads is 2, but recurrence 'v2m' has one"),
        (
            {"expand": 2, "project_out": False},
            "expand is 2, expected 1 without the last projection",
        ),
    ],
    ids=["many", "recurrence", "expand"],
)
def test_impossible_scans_are_refused(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        Scan2d(8, **kwargs)


def test_repr_names_the_heads():
    assert "3, routes=(raster, raster), heads=2, d_state=1" in repr(S6(6, heads=2, routes="raster"))
    assert repr(RouteAttention(0.5)) == "RouteAttention(threshold=0.5)"


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_route_attention_equals_its_equations(threshold):
    y = image(2, 3, 4, 5, 6)
    deviation = ((y - y.mean(3, keepdim=True)).square().sum(3) / 4).sqrt()
    above = (y - y.min(3, keepdim=True).values).sum(3) / 5
    weight = (deviation / (above + 1e-5) - threshold).clamp_min(0)
    got = RouteAttention(threshold)(y)
    torch.testing.assert_close(got, y.sum(3) * weight, rtol=1e-10, atol=1e-10)
    assert (got == 0).any() == (threshold > 0)


def test_route_attention_is_between_one_route_below_and_one_above():
    attention = RouteAttention()
    for y, quotient in [((1, 1, 1, 5), 2), ((5, 5, 1, 5), 2 / 3)]:
        y = 1e6 * torch.tensor(y, dtype=torch.float64)[:, None]
        torch.testing.assert_close(attention(y) / y.sum(0), torch.tensor([quotient]).double())


def test_equal_routes_pass_nothing_and_have_finite_gradients():
    y = torch.ones(3, 4, 2, requires_grad=True)
    z = RouteAttention()(y)
    assert (z == 0).all()
    z.sum().backward()
    assert y.grad.isfinite().all()


def test_route_attention_needs_two_routes():
    with pytest.raises(ValueError, match=r"y has shape \(2, 1, 3\), expected at least 2 routes"):
        RouteAttention()(torch.ones(2, 1, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [1, 2])
def test_small_differences_of_routes_survive_half_precision(heads, dtype):
    """D·x, the same for all routes, is a thousand times as large as what tells them apart."""
    torch.manual_seed(0)
    s6 = S6(16, heads=heads, d_state=2, merge=RouteAttention()).to(dtype)
    nn.init.normal_(s6.x_proj_weight, std=0.05)
    x = torch.randn(2, 5, 6, 16).to(dtype)
    got = s6(x)
    assert got.dtype == dtype
    want = s6.float()(x.float())
    error = (got - want).norm() / want.norm()
    assert error < 8 * torch.finfo(dtype).eps, error
