"""Scan2d and S6 against their equations written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.scans import S6, Scan2d
from statescan.scans.routes import Joined, Reverse, Windowed, column, raster, spiral


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(module, *args, **kwargs):
    torch.manual_seed(0)
    return module(*args, **kwargs).double()


def s6_written_out(s6, x):
    """Mamba's equations on (B, H, W, C), one route and one step after the other: (B, L, K, C)."""
    H, W = x.shape[1:3]
    tokens = F.pad(x.flatten(1, 2), (0, 0, 0, 1))
    out = torch.zeros(x.shape[0], H * W + 1, len(s6.routes), x.shape[-1], dtype=x.dtype)
    for k, route in enumerate(s6.routes):
        h = 0
        for p in route(H, W).tolist():
            u = tokens[:, p]
            dt, B, C = (u @ s6.x_proj_weight[k].T).split([s6.dt_rank, s6.d_state, s6.d_state], -1)
            delta = F.softplus(dt @ s6.dt_proj_weight[k].T + s6.dt_proj_bias[k])
            decay = torch.exp(delta[..., None] * -s6.A_log[k].exp())
            h = decay * h + (delta * u)[..., None] * B[:, None]
            out[:, p, k] += (h * C[:, None]).sum(-1) + s6.D[k] * u
    return out[:, : H * W].unflatten(1, (H, W))


@pytest.mark.parametrize(
    ("routes", "d_state", "size"),
    [
        ("cross", 1, (5, 4)),
        (("raster", spiral), 3, (4, 7)),
        ("atrous", 2, (5, 3)),
        ((Windowed(2, pad=True), Reverse(Windowed(3, pad=True))), 2, (5, 4)),
        ("hilbert", 1, (1, 1)),
        ((Joined((column, Windowed(2, pad=True), Reverse(raster))), spiral), 2, (3, 5)),
        (Joined((raster, Windowed(2, pad=True)), stacked=True), 1, (6, 3)),
    ],
    ids=["cross", "own-choice", "atrous", "padded-windows", "one-pixel", "joined", "stacked"],
)
def test_s6_equals_its_equations(routes, d_state, size):
    s6 = make(S6, 6, routes=routes, d_state=d_state, dt_rank=2)
    x = image(2, *size, 6)
    want = s6_written_out(s6, x).sum(3)
    torch.testing.assert_close(s6(x), want, rtol=1e-10, atol=1e-10)


def fused_scan_written_out(s6, x):
    """Spatial-Mamba's equations: states of every route, their neighbours', then C and D."""
    H, W = x.shape[1:3]
    tokens = F.pad(x.flatten(1, 2), (0, 0, 0, 1))
    total = torch.zeros_like(x)
    kernels = [w.unflatten(0, (len(s6.routes), x.shape[-1], s6.d_state)) for w in s6.fusion.kernels]
    for k, route in enumerate(s6.routes):
        projected = (tokens @ s6.x_proj_weight[k].T).split([s6.dt_rank, s6.d_state, s6.d_state], -1)
        dt, B, C = projected
        states = torch.zeros(*tokens.shape, s6.d_state, dtype=x.dtype)
        h = 0
        for p in route(H, W).tolist():
            delta = F.softplus(dt[:, p] @ s6.dt_proj_weight[k].T + s6.dt_proj_bias[k])
            decay = torch.exp(delta[..., None] * -s6.A_log[k].exp())
            h = decay * h + (delta * tokens[:, p])[..., None] * B[:, p, None]
            states[:, p] += h
        for n in range(s6.d_state):
            grid = states[:, : H * W, :, n].unflatten(1, (H, W)).permute(0, 3, 1, 2)
            fused = 0
            for a, w, d in zip(s6.fusion.alpha, kernels, s6.fusion.dilations, strict=True):
                around = F.pad(grid, [d] * 4, mode="replicate")
                fused = fused + a * F.conv2d(around, w[k, :, n], dilation=d, groups=len(w[k]))
            C_n = C[:, : H * W, n].view(len(x), H, W, 1)
            total = total + fused.permute(0, 2, 3, 1) * C_n
        total = total + s6.D[k] * x
    return total


@pytest.mark.parametrize(
    ("routes", "d_state", "size"),
    [
        ("raster", 1, (5, 4)),
        ((column, spiral), 2, (3, 7)),
        ((Windowed(2, pad=True),), 1, (3, 5)),
        ("cross", 1, (1, 1)),
    ],
    ids=["raster", "two-routes-two-states", "padded-windows", "one-pixel"],
)
def test_state_fusion_equals_its_equations(routes, d_state, size):
    s6 = make(S6, 6, routes=routes, d_state=d_state, dt_rank=2, state_fusion=(1, 3))
    for p in s6.fusion.parameters():
        nn.init.normal_(p)
    x = image(2, *size, 6)
    want = fused_scan_written_out(s6, x)
    torch.testing.assert_close(s6(x), want, rtol=1e-10, atol=1e-10)
    s6.merge = "mean"
    torch.testing.assert_close(s6(x), want / len(s6.routes), rtol=1e-10, atol=1e-10)
    s6.merge = Added()
    torch.testing.assert_close(s6(x), want, rtol=1e-10, atol=1e-10)


class Added(nn.Module):
    def forward(self, y):
        return y.sum(3)


def test_recurrences_fuse_no_states():
    with pytest.raises(ValueError, match=r"state_fusion is \(1, 3\), but recurrence 'v2m' keeps"):
        Scan2d(8, recurrence="v2m", state_fusion=(1, 3))


class Weighted(nn.Module):
    def forward(self, y):
        return y[..., 0, :] - 2 * y[..., 1, :]


class Scaled(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, y):
        return self.dim * y.sum(3)


def test_merges():
    x = image(2, 3, 4, 6)
    apart = s6_written_out(make(S6, 6, routes=(raster, column)), x)
    for merge, want in [
        ("sum", apart.sum(3)),
        ("mean", apart.mean(3)),
        (Weighted(), apart[..., 0, :] - 2 * apart[..., 1, :]),
        (Scaled, 6 * apart.sum(3)),
    ]:
        s6 = make(S6, 6, routes=(raster, column), merge=merge)
        torch.testing.assert_close(s6(x), want, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="merge is 'median', expected one of"):
        S6(6, merge="median")


def test_initial_step_sizes_and_decays_are_mambas():
    s6 = make(S6, 64, d_state=4, dt_rank=4)
    dt = F.softplus(s6.dt_proj_bias)
    assert 1e-3 <= dt.min() < 2e-3
    assert 0.08 < dt.max() <= 0.1
    assert torch.equal(s6.A_log[1, 5].exp().round(), torch.arange(1, 5).double())
    assert (s6.D == 1).all()


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
def test_scan2d_equals_its_definition(gate):
    scan = make(Scan2d, 32, d_state=2, expand=2, gate=gate, conv_bias=True)
    x = image(2, 5, 4, 32)
    inner, z = scan.in_proj(x).split([64, 64 if gate else 0], dim=-1)
    inner = F.silu(scan.conv(inner.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    y = scan.norm(s6_written_out(scan.s6, inner).sum(3))
    want = scan.out_proj(y * F.silu(z) if gate else y)
    assert scan.s6.dt_rank == 2
    torch.testing.assert_close(scan(x), want, rtol=1e-10, atol=1e-10)


class Shifted(nn.Module):
    """Adds numbers of its own to every channel."""

    def __init__(self, dim):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(dim))

    def forward(self, x):
        return x + self.shift


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
def test_modules_in_place_of_the_convolution_and_after_the_norm(gate):
    scan = make(Scan2d, 16, expand=2, gate=gate, local=Shifted, attention=Shifted)
    x = image(2, 5, 4, 16)
    inner, z = scan.in_proj(x).split([32, 32 if gate else 0], dim=-1)
    y = scan.norm(s6_written_out(scan.s6, F.silu(inner + scan.conv.shift)).sum(3))
    y = y * F.silu(z) if gate else y
    want = scan.out_proj(y + scan.attention.shift)
    torch.testing.assert_close(scan(x), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("merge", ["sum", "mean", nn.Flatten(3)], ids=str)
@pytest.mark.parametrize("routes", ["cross", "atrous"])
def test_every_route_can_have_a_gate(routes, merge):
    merge_size = 4 if isinstance(merge, nn.Module) else 1
    scan = make(Scan2d, 32, routes=routes, d_state=2, expand=2, gate="route", merge=merge)
    scan.norm, scan.out_proj = nn.Identity(), nn.Identity()
    inner, z = scan.in_proj(image(2, 5, 4, 32)).split([64, 4 * 64], dim=-1)
    inner = F.silu(scan.conv(inner.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    y = s6_written_out(scan.s6, inner) * F.silu(z).unflatten(-1, (4, 64))
    want = {"sum": y.sum(3), "mean": y.mean(3)}.get(merge, y.flatten(3))
    got = scan(image(2, 5, 4, 32))
    assert got.shape[-1] == 64 * merge_size
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_gates_apply_to_fused_states():
    s6 = make(S6, 6, routes="cross", state_fusion=(1,))
    x, gate = image(2, 5, 4, 6), image(2, 5, 4, 4, 6)
    ones = torch.ones_like(gate)
    torch.testing.assert_close(s6(x, gate=ones), s6(x), rtol=1e-10, atol=1e-10)
    by_route = sum(
        s6(x, gate=ones * (torch.arange(4) == k)[:, None]) * gate[:, :, :, k] for k in range(4)
    )
    torch.testing.assert_close(s6(x, gate=gate), by_route, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 8, 5, 4), (5, 4, 8), (2, 5, 4, 6)], ids=str)
def test_maps_that_do_not_fit_are_named(shape):
    sentence = rf"x has shape \({', '.join(map(str, shape))}\), expected \(B, H, W, 8\)"
    with pytest.raises(ValueError, match=sentence):
        Scan2d(8)(torch.zeros(shape))


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="conv_size is 4, expected an odd number"):
        Scan2d(8, conv_size=4)


def test_gates_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="gate is 'all', expected False, True or 'route'"):
        Scan2d(8, gate="all")
    sentence = "gate is 'route', but recurrence 'v2m' follows no routes"
    with pytest.raises(ValueError, match=sentence):
        Scan2d(8, gate="route", recurrence="v2m")
    with pytest.raises(ValueError, match="gate is 'route', expected False or True with 2 heads"):
        Scan2d(8, gate="route", heads=2)


@pytest.mark.parametrize("routes", ["raster", "cross", "serpentine", "hilbert", "windowed"])
def test_every_parameter_learns(routes):
    scan = make(Scan2d, 8, routes=routes, gate=True)
    scan(image(1, 6, 5, 8)).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in scan.parameters())


def test_repr_names_the_routes():
    assert "routes=(raster, column, Reverse(raster), Reverse(column))" in repr(Scan2d(8))
