"""The 2-D recurrences as modules, alone and inside Scan2d."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.kernels.recurrence_2d import (
    scan_2dmamba_reference,
    scan_mamba2d_reference,
    scan_v2m_reference,
)
from statescan.kernels.recurrence_2d.reference import enter, read_out, stack, step_sizes
from statescan.scans import S6, V2M, Mamba2D, Scan2d, TwoDMamba
from statescan.scans.recurrences import RECURRENCES, turn

every_recurrence = pytest.mark.parametrize("name", RECURRENCES)


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(module, *args, **kwargs):
    torch.manual_seed(0)
    return module(*args, **kwargs).double()


def written_out(module, x, k):
    """One direction of a module on a turned grid, by the definitions."""
    R, N = module.dt_rank, module.d_state
    A = -module.A_log.exp()
    if isinstance(module, V2M):
        dt, B = (x @ module.x_proj_weight[0].T).split([R, N], -1)
        first = (x, dt @ module.dt_proj_weight[0].T, A[0], B)
        u = v2m_rows_written_out(*first, module.D[0], module.dt_proj_bias[0])
        dt2, C2 = (u @ module.x_proj_weight[1].T).split([R, N], -1)
        second = (dt2 @ module.dt_proj_weight[1].T, A[1], C2, module.D[0], module.D[1])
        bias, bias2 = module.dt_proj_bias
        return scan_v2m_reference(*first, *second, dt_bias=bias, dt_bias2=bias2)
    if isinstance(module, TwoDMamba):
        dt, B, C = (x @ module.x_proj_weight[k].T).split([R, N, N], -1)
        dt = dt @ module.dt_proj_weight[k].T
        skip, bias = module.D[k], module.dt_proj_bias[k]
        return scan_2dmamba_reference(x, dt, A[k], B, C, skip, dt_bias=bias)
    dt, dt_left, B, B_left, C = (x @ module.x_proj_weight[k].T).split([R, R, N, N, N], -1)
    dts = dt @ module.dt_proj_weight[k, 0].T, dt_left @ module.dt_proj_weight[k, 1].T
    arguments = (x, *dts, A[k, 0], A[k, 1], B, B_left, C, module.D[k])
    bias, bias_left = module.dt_proj_bias[k]
    return scan_mamba2d_reference(*arguments, dt_bias_top=bias, dt_bias_left=bias_left)


def v2m_rows_written_out(x, dt, A, B, D, dt_bias):
    delta, rows = step_sizes(dt, dt_bias), []
    for i in range(x.shape[1]):
        h, row = 0, []
        for j in range(x.shape[2]):
            a, v = enter(x[:, i, j], delta[:, i, j], A, B[:, i, j])
            h = a * h + v
            row.append(read_out(h, torch.ones_like(B[:, i, j]), D, x[:, i, j]))
        rows.append(row)
    return stack(rows)


def turned(x, k):
    """The four orientations, said otherwise than in the module."""
    return (x, x.mT, x.flip(-1, -2), x.flip(-1, -2).mT)[k]


def over_grid(x, k):
    return turned(x.movedim(-1, 1), k).movedim(1, -1)


@every_recurrence
@pytest.mark.parametrize(
    ("size", "directions"),
    [((4, 3), 4), ((1, 5), 4), ((1, 1), 4), ((3, 3), 2), ((3, 2), 1)],
    ids=["H4-W3", "one-row", "one-pixel", "two-directions", "one-direction"],
)
def test_equals_its_equations(name, size, directions):
    module = make(RECURRENCES[name], 5, d_state=2, dt_rank=3, directions=directions)
    x = image(2, *size, 5)
    ys = [over_grid(written_out(module, over_grid(x, k), k), k) for k in range(directions)]
    torch.testing.assert_close(module(x), sum(ys), rtol=1e-10, atol=1e-10)


class Weighted(nn.Module):
    def forward(self, y):
        return y[..., 0, :] - 2 * y[..., 3, :]


@every_recurrence
def test_merges(name):
    x = image(2, 3, 4, 6)
    module = make(RECURRENCES[name], 6)
    apart = [turn(module.scan(turn(x, k), k), k) for k in range(4)]
    wanted = {"sum": sum(apart), "mean": sum(apart) / 4, Weighted(): apart[0] - 2 * apart[3]}
    for merge, want in wanted.items():
        module.merge = merge
        torch.testing.assert_close(module(x), want, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="merge is 'median', expected one of"):
        RECURRENCES[name](6, merge="median")


def test_turning_twice_gives_the_grid_back():
    x = image(2, 3, 4, 5)
    assert all(torch.equal(turn(turn(x, k), k), x) for k in range(4))


def reordered(module, order):
    """The same module with its directions in another order; V2M's share everything."""
    other = make(type(module), 5, d_state=2, dt_rank=2)
    state = module.state_dict()
    shared = isinstance(module, V2M)
    other.load_state_dict({k: v if shared else v[list(order)] for k, v in state.items()})
    return other


@every_recurrence
@pytest.mark.parametrize(
    ("symmetry", "order"),
    [
        (lambda x: x.flip(1, 2), (2, 3, 0, 1)),
        (lambda x: x.transpose(1, 2), (1, 0, 3, 2)),
        (lambda x: x.transpose(1, 2).flip(1, 2), (3, 2, 1, 0)),
    ],
    ids=["flipped", "transposed", "both"],
)
def test_turned_input_and_swapped_directions_turn_the_output(name, symmetry, order):
    module = make(RECURRENCES[name], 5, d_state=2, dt_rank=2)
    x = image(2, 4, 3, 5)
    got = reordered(module, order)(symmetry(x))
    torch.testing.assert_close(got, symmetry(module(x)), rtol=1e-11, atol=1e-11)


@every_recurrence
def test_starts_as_s6_does(name):
    module = make(RECURRENCES[name], 64, d_state=4, dt_rank=4)
    dt = F.softplus(module.dt_proj_bias)
    assert 1e-3 <= dt.min() < 2e-3
    assert 0.08 < dt.max() <= 0.1
    assert (module.A_log.exp().round() == torch.arange(1, 5)).all()
    assert (module.D == 1).all()
    assert module.dt_proj_weight.abs().max() <= 0.5


def test_2dmamba_has_the_parameters_of_s6():
    def shapes(module):
        return {k: v.shape for k, v in module.state_dict().items()}

    assert shapes(TwoDMamba(6, d_state=2, dt_rank=3)) == shapes(S6(6, d_state=2, dt_rank=3))


@every_recurrence
@pytest.mark.parametrize("size", [(6, 5), (1, 7), (8, 1)], ids=["H6-W5", "H1-W7", "H8-W1"])
def test_scan2d_runs_it(name, size):
    scan = make(Scan2d, 32, recurrence=name, d_state=2, expand=2, gate=True)
    x = image(2, *size, 32)
    assert isinstance(scan.s6, RECURRENCES[name])
    assert (scan.s6.dt_rank, scan.s6.d_state) == (2, 2)
    inner, z = scan.in_proj(x).chunk(2, dim=-1)
    inner = F.silu(scan.conv(inner.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    want = scan.out_proj(scan.norm(scan.s6(inner)) * F.silu(z))
    assert scan(x).shape == x.shape
    torch.testing.assert_close(scan(x), want, rtol=1e-12, atol=1e-12)


@every_recurrence
def test_every_parameter_learns(name):
    scan = make(Scan2d, 8, recurrence=name, gate=True)
    scan(image(1, 6, 5, 8)).square().sum().backward()
    for parameter, p in scan.named_parameters():
        assert (p.grad != 0).any(), parameter
    for parameter in (scan.s6.A_log, scan.s6.D, scan.s6.dt_proj_bias):
        assert (parameter.grad.flatten(1) != 0).any(1).all()  # of every direction or pass


@every_recurrence
def test_state_dict_round_trip(name):
    scan = make(Scan2d, 8, recurrence=name)
    torch.manual_seed(1)
    other = Scan2d(8, recurrence=name).double()
    other.load_state_dict(scan.state_dict(), strict=True)
    x = image(1, 4, 5, 8)
    assert torch.equal(other(x), scan(x))


@every_recurrence
def test_a_few_steps_lower_a_loss(name):
    torch.manual_seed(0)
    scan = Scan2d(8, recurrence=name)
    x = torch.randn(4, 5, 6, 8)
    target = x.cumsum(1).cumsum(2) / 10
    optimizer = torch.optim.AdamW(scan.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(scan(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@every_recurrence
def test_compiles_without_graph_break(name):
    scan = make(Scan2d, 8, recurrence=name)
    x = image(2, 4, 3, 8)
    torch.compiler.reset()
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), scan(x), rtol=1e-12, atol=1e-12)


@every_recurrence
def test_routes_are_refused(name):
    sentence = f"routes is 'raster', but recurrence '{name}' follows no routes"
    with pytest.raises(ValueError, match=sentence):
        Scan2d(8, routes="raster", recurrence=name)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="recurrence is 'roesser', expected one of"):
        Scan2d(8, recurrence="roesser")
    with pytest.raises(ValueError, match="directions is 5, expected 1 to 4"):
        Mamba2D(8, directions=5)


def test_repr_tells_the_sizes():
    assert "(s6): V2M(8, d_state=1, dt_rank=1, directions=4)" in repr(Scan2d(8, recurrence="v2m"))
