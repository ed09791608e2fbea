"""Scans in the order of their steps against their equations written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.kernels import _arguments
from statescan.scans import CausalS6, TokenScan
from statescan.scans.routes import Atrous, ClassToken, Reverse, Windowed, column, raster
from statescan.scans.steps import to_positions, to_steps


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(module, *args, **kwargs):
    torch.manual_seed(0)
    return module(*args, **kwargs).double()


def causal_s6_written_out(s6, x, H, W):
    """Vim's algorithm 1 on (B, L, C), one route and one step after the other: (B, L, K, C)."""
    L = x.shape[1]
    visited = F.pad(x, (0, 0, 0, 1))
    out = torch.zeros(x.shape[0], L + 1, len(s6.routes), x.shape[-1], dtype=x.dtype)
    size = s6.conv_weight.shape[-1]
    for k, route in enumerate(s6.routes):
        h = 0
        steps = route(H, W).tolist()
        for t, p in enumerate(steps):
            u = s6.conv_bias[k]
            for j in range(size):
                if t - j >= 0:
                    u = u + s6.conv_weight[k, :, size - 1 - j] * visited[:, steps[t - j]]
            u = F.silu(u)
            dt, B, C = (u @ s6.x_proj_weight[k].T).split([s6.dt_rank, s6.d_state, s6.d_state], -1)
            delta = F.softplus(dt @ s6.dt_proj_weight[k].T + s6.dt_proj_bias[k])
            decay = torch.exp(delta[..., None] * -s6.A_log[k].exp())
            h = decay * h + (delta * u)[..., None] * B[:, None]
            out[:, p, k] += (h * C[:, None]).sum(-1) + s6.D[k] * u
    return out[:, :L]


class Weighted(nn.Module):
    def forward(self, y):
        return y[..., 0, :] - 2 * y[..., -1, :]


ROUTES = {
    "bidirectional": ("bidirectional", 0),
    "class-token": ((ClassToken(raster), Reverse(ClassToken(raster))), 1),
    "padded-windows": ((Windowed(2, pad=True), Reverse(Windowed(3, pad=True)), column), 0),
    "all": ((ClassToken(Windowed(2, pad=True)), ClassToken(Reverse(column))), 1),
    "some": ((Atrous(2), raster), 0),
}


@pytest.mark.parametrize("size", [(5, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ROUTES)
def test_causal_s6_equals_its_equations(name, size):
    routes, extra = ROUTES[name]
    x = tokens(2, extra + size[0] * size[1], 6)
    gate = tokens(*x.shape).sin()
    s6 = make(CausalS6, 6, routes=routes, d_state=2, dt_rank=2)
    apart = causal_s6_written_out(s6, x, *size)
    gates = tokens(*apart.shape).sin()
    for merge, merged in [
        ("sum", lambda y: y.sum(2)),
        ("mean", lambda y: y.mean(2)),
        (Weighted(), Weighted()),
    ]:
        s6.merge = merge
        for given, want in [
            (None, apart),
            (gate, apart * gate.unsqueeze(2)),
            (gates, apart * gates),
        ]:
            got = s6(x, *size, gate=given)
            torch.testing.assert_close(got, merged(want), rtol=1e-10, atol=1e-10)


def test_gradients_equal_those_of_the_equations():
    s6 = make(CausalS6, 4, routes=ROUTES["all"][0], d_state=2)
    x = tokens(2, 16, 4).requires_grad_()
    leaves = [x, *s6.parameters()]
    got = torch.autograd.grad(s6(x, 5, 3).sin().sum(), leaves)
    want = torch.autograd.grad(causal_s6_written_out(s6, x, 5, 3).mean(2).sin().sum(), leaves)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_steps_and_positions():
    table = torch.tensor([[2, 0, -1], [1, 1, 2]])
    x = tokens(1, 3, 1)
    steps = to_steps(x, table)
    assert torch.equal(steps[0, :2, 0], x[0, [2, 0]])
    assert torch.equal(steps[0, :, 1], x[0, [1, 1, 2]])
    steps[0, 2, 0] = 0  # no step
    left = to_positions(steps, table, 3)
    assert torch.equal(left[0, :, 0], x[0] * torch.tensor([[1.0], [0.0], [1.0]]))
    assert torch.equal(left[0, :, 1], x[0] * torch.tensor([[0.0], [2.0], [1.0]]))


def test_token_scan_equals_its_definition():
    scan = make(TokenScan, 32, routes=(raster, column), merge=lambda inner: Weighted())
    x = tokens(2, 12, 32)
    u, z = scan.in_proj(x).split(64, dim=-1)
    apart = causal_s6_written_out(scan.s6, u, 4, 3)
    want = scan.out_proj(Weighted()(apart * F.silu(z).unsqueeze(2)))
    assert scan.s6.dt_rank == 2
    torch.testing.assert_close(scan(x, 4, 3), want, rtol=1e-10, atol=1e-10)


def test_unknown_merge_is_refused():
    with pytest.raises(ValueError, match="merge is 'median', expected one of"):
        TokenScan(8, merge="median")


def test_tables_are_looked_at_once(monkeypatch):
    """On a GPU, a look at a table's values waits for everything before it."""
    looks = []
    look = _arguments._look
    monkeypatch.setattr(_arguments, "_look", lambda *a: looks.append(a) or look(*a))
    s6 = make(CausalS6, 4, routes=(Atrous(2), column), d_state=2)
    x = tokens(1, 7 * 9, 4)
    with torch.inference_mode():
        first = s6(x, 7, 9)
    assert len(looks) == 1
    assert torch.equal(s6(x, 7, 9), first)
    with torch.inference_mode():
        s6(x, 7, 9)
    assert len(looks) == 1
