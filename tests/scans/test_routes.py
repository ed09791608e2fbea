"""Routes: permutations or partitions of every grid, and the published orders."""

import copy
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from statescan.scans import ROUTE_SETS, routes
from statescan.scans.routes import (
    Atrous,
    ClassToken,
    Flip,
    Joined,
    Reverse,
    Transpose,
    Windowed,
    column,
    diagonal,
    hilbert,
    is_permutation,
    raster,
    resolve_routes,
    route_table,
    routes_by_head,
    serpentine,
    spiral,
    uses_blank,
)

SIZES = [(H, W) for H in range(1, 18) for W in range(1, 14)]
PERMUTATIONS = [
    *(raster, column, serpentine, diagonal, spiral, hilbert),
    *(Windowed(1), Windowed(2), Windowed(7), Windowed(20)),
    *(Reverse(spiral), Transpose(diagonal), Flip(hilbert, 0), Flip(Windowed(3), 1)),
    Joined((spiral,)),
]
EVERY_ROUTE = {*PERMUTATIONS, *(route for routes in ROUTE_SETS.values() for route in routes)}


def visits(table, H, W):
    """The step at which each position is visited, as nested lists."""
    steps = torch.empty(H * W, dtype=torch.long)
    steps[table] = torch.arange(H * W)
    return steps.view(H, W).tolist()


def step_lengths(table, W):
    """How far each step goes, (rows, columns)."""
    return torch.stack([(table // W).diff().abs(), (table % W).diff().abs()])


@pytest.mark.parametrize("route", PERMUTATIONS, ids=str)
def test_visits_every_position_once(route):
    for H, W in SIZES:
        table = route(H, W)
        assert table.dtype == torch.int64
        assert torch.equal(table.sort().values, torch.arange(H * W)), (H, W)
    assert is_permutation(route)


def test_other_routes_are_not_known_to_be_permutations():
    for route in (
        *(Atrous(2), Windowed(2, pad=True), Reverse(Atrous(1, pad=True)), _own_route),
        *(Joined((raster, column)), Joined((raster, Atrous(2)), stacked=True)),
    ):
        assert not is_permutation(route)


def _own_route(H, W):
    return torch.arange(H * W)


def test_joined_routes_follow_each_other():
    joined = Joined((Reverse(raster), column))
    assert joined(2, 3).tolist() == [5, 4, 3, 2, 1, 0, 0, 3, 1, 4, 2, 5]
    windows = Joined((column, Windowed(2, pad=True)))
    assert windows(1, 3).tolist() == [0, 1, 2, 0, 1, 3, 3, 2, 3, 3, 3]


def test_stacked_routes_visit_a_copy_each():
    stacked = Joined((Reverse(raster), column), stacked=True)
    assert stacked(4, 3).tolist() == [5, 4, 3, 2, 1, 0, 6, 9, 7, 10, 8, 11]
    windows = Joined((column, Windowed(2, pad=True)), stacked=True)
    assert windows(2, 3).tolist() == [0, 1, 2, 3, 4, 6, 6, 5, 6, 6, 6]
    with pytest.raises(ValueError, match="the grid has 3 rows, expected 2 copies of an image"):
        stacked(3, 3)


@pytest.mark.parametrize("route", PERMUTATIONS, ids=str)
def test_stacked_permutations_are_one(route):
    stacked = Joined((raster, route, column), stacked=True)
    for H, W in SIZES:
        assert torch.equal(stacked(3 * H, W).sort().values, torch.arange(3 * H * W)), (H, W)
    assert is_permutation(stacked)


@pytest.mark.parametrize("pad", [False, True], ids=["cut", "padded"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_atrous_phases_partition_the_grid(step, pad):
    phases = [Atrous(step, (i, j), pad) for i in range(step) for j in range(step)]
    for H, W in SIZES:
        tables = [phase(H, W) for phase in phases]
        together = torch.cat(tables)
        assert torch.equal(together[together < H * W].sort().values, torch.arange(H * W)), (H, W)
        if pad:
            assert len({len(table) for table in tables}) == 1


@pytest.mark.parametrize("size", [1, 2, 7])
def test_padded_windows_fill_up_with_the_blank_token(size):
    for H, W in SIZES:
        table = Windowed(size, pad=True)(H, W)
        inside = table < H * W
        assert torch.equal(table[inside], Windowed(size)(H, W)), (H, W)
        assert (table[~inside] == H * W).all()
        assert len(table) == -(-H // size) * -(-W // size) * size**2


@pytest.mark.parametrize(
    ("route", "steps"),
    [
        (raster, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (column, [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
        (serpentine, [[0, 1, 2], [5, 4, 3], [6, 7, 8]]),
        (diagonal, [[0, 1, 5], [2, 4, 6], [3, 7, 8]]),
        (spiral, [[0, 1, 2], [7, 8, 3], [6, 5, 4]]),
        (Windowed(2), [[0, 1, 4], [2, 3, 5], [6, 7, 8]]),
        (Reverse(raster), [[8, 7, 6], [5, 4, 3], [2, 1, 0]]),
        (Transpose(diagonal), [[0, 2, 3], [1, 4, 7], [5, 6, 8]]),
        (Flip(spiral, 0), [[6, 5, 4], [7, 8, 3], [0, 1, 2]]),
        (Flip(diagonal, 1), [[5, 1, 0], [6, 4, 2], [8, 7, 3]]),
    ],
    ids=str,
)
def test_order_on_three_by_three(route, steps):
    assert visits(route(3, 3), 3, 3) == steps


def test_order_on_oblong_grids():
    assert visits(spiral(2, 3), 2, 3) == [[0, 1, 2], [5, 4, 3]]
    assert visits(spiral(3, 4), 3, 4) == [[0, 1, 2, 3], [9, 10, 11, 4], [8, 7, 6, 5]]
    assert visits(diagonal(2, 3), 2, 3) == [[0, 1, 4], [2, 3, 5]]
    assert visits(Transpose(serpentine)(2, 3), 2, 3) == [[0, 3, 4], [1, 2, 5]]
    assert visits(hilbert(2, 2), 2, 2) == [[0, 3], [1, 2]]


@pytest.mark.parametrize("route", [serpentine, spiral], ids=lambda r: r.__name__)
def test_every_step_is_to_a_neighbour(route):
    for H, W in SIZES:
        assert (step_lengths(route(H, W), W).sum(0) == 1).all(), (H, W)


def test_hilbert_steps_to_neighbours_with_at_most_one_diagonal():
    """One where the longer side is odd and the shorter one even, else none."""
    for H, W in SIZES:
        lengths = step_lengths(hilbert(H, W), W)
        if lengths.numel():
            assert lengths.amax() == 1
            allowed = max(H, W) % 2 == 1 and min(H, W) % 2 == 0
            assert (lengths.sum(0) == 2).sum() <= allowed, (H, W)


def test_hilbert_keeps_near_what_is_near():
    """Half of the tiles of 4x4 in a row of the raster; a whole tile in the Hilbert curve."""
    table = hilbert(16, 16)
    tile = (table // 16 // 4) * 4 + table % 16 // 4
    assert (tile.diff() != 0).sum() == 15


def test_hilbert_walks_each_size_of_rectangle_once(monkeypatch):
    """Also what makes it quick to trace: a few calls, not one for each position."""
    calls, walk = [], routes._hilbert
    monkeypatch.setattr(routes, "_hilbert", lambda *args: calls.append(args) or walk(*args))
    hilbert(512, 512)
    assert len(calls) < 100


def test_diagonal_steps_are_at_most_diagonal():
    for H, W in SIZES:
        if H * W > 1:
            assert step_lengths(diagonal(H, W), W).amax() == 1


@pytest.mark.parametrize("route", EVERY_ROUTE, ids=str)
def test_combinations_undo_themselves(route):
    for H, W in [(1, 1), (3, 5), (6, 4)]:
        table = route(H, W)
        assert torch.equal(Reverse(Reverse(route))(H, W), table)
        assert torch.equal(Transpose(Transpose(route))(H, W), table)
        for axis in (0, 1):
            assert torch.equal(Flip(Flip(route, axis), axis)(H, W), table)


@given(H=st.integers(1, 40), W=st.integers(1, 40))
def test_transposed_raster_is_column(H, W):
    assert torch.equal(Transpose(raster)(H, W), column(H, W))
    assert torch.equal(Flip(Flip(raster, 0), 1)(H, W), Reverse(raster)(H, W))


@pytest.mark.parametrize("route", EVERY_ROUTE, ids=str)
def test_routes_are_values(route):
    again = pickle.loads(pickle.dumps(route))
    assert again == route == copy.deepcopy(route)
    assert hash(again) == hash(route)


def test_repr_is_the_call_that_makes_the_route():
    assert repr(Reverse(Transpose(raster))) == "Reverse(Transpose(raster))"
    assert repr(Windowed(2)) == "Windowed(2, False)"
    assert repr(Joined((raster, Reverse(column)))) == "Joined((raster, Reverse(column)), False)"
    assert repr(Joined((raster,))) == "Joined((raster,), False)"


def test_blank_token_is_announced():
    assert uses_blank(Reverse(Windowed(2, pad=True)))
    assert uses_blank(Joined((raster, Reverse(Windowed(2, pad=True)))))
    assert not uses_blank(Reverse(Windowed(2)))
    assert not uses_blank(Joined((raster, Windowed(2))))
    assert not uses_blank(raster)


def test_class_token_is_visited_halfway():
    assert ClassToken(column)(3, 3).tolist() == [1, 4, 7, 2, 0, 5, 8, 3, 6, 9]
    assert Reverse(ClassToken(raster))(1, 3).tolist() == [3, 2, 0, 1]
    assert ClassToken(Reverse(raster))(1, 3).tolist() == [3, 0, 2, 1]
    assert ClassToken(Windowed(2, pad=True))(1, 3).tolist() == [1, 0, 2, 4, 4, 3, 4, 4, 4]
    assert uses_blank(ClassToken(Windowed(2, pad=True)))
    for H, W in SIZES:
        table = ClassToken(spiral)(H, W)
        assert torch.equal(table.sort().values, torch.arange(H * W + 1))
        assert table[H * W // 2] == 0


def test_cross_is_vmambas_order():
    table = route_table(resolve_routes("cross"), 2, 3)
    assert table.dtype == torch.int32
    assert table.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("serpentine", ([[0, 1, 2], [5, 4, 3]], [[0, 3, 4], [1, 2, 5]])),
        ("diagonal", ([[0, 1, 4], [2, 3, 5]], [[4, 1, 0], [5, 3, 2]])),
        ("spiral", ([[0, 1, 2], [5, 4, 3]], [[5, 4, 3], [0, 1, 2]])),
        ("cross", ([[0, 1, 2], [3, 4, 5]], [[0, 2, 4], [1, 3, 5]])),
    ],
)
def test_sets_of_mhs_vms_heads(name, steps):
    """Two routes, then each from its end."""
    table = route_table(resolve_routes(name), 2, 3)
    assert [visits(route.long(), 2, 3) for route in table[:2]] == [*steps]
    assert torch.equal(table[2:], table[:2].flip(1))


def test_routes_of_heads_take_turns():
    ours = routes_by_head((("bidirectional",), (spiral, column)), 2)
    assert ours == (raster, spiral, Reverse(raster), column)
    assert routes_by_head(("raster", spiral), 3) == (raster,) * 3 + (spiral,) * 3
    with pytest.raises(ValueError, match="routes has 1 parts, expected one for each of 2 heads"):
        routes_by_head([("cross",)], 2)


def test_atrous_set_is_efficientvmambas_order():
    table = route_table(resolve_routes("atrous"), 4, 4)
    assert table.tolist() == [[0, 2, 8, 10], [4, 12, 6, 14], [1, 3, 9, 11], [5, 13, 7, 15]]


def test_short_routes_end_without_steps():
    table = route_table(resolve_routes("atrous"), 1, 3)
    assert table.tolist() == [[0, 2], [-1, -1], [1, -1], [-1, -1]]


@pytest.mark.parametrize("name", ROUTE_SETS)
def test_sets_cover_the_grid_at_every_size(name):
    for H, W in SIZES:
        table = route_table(resolve_routes(name), H, W)
        assert set(range(H * W)) <= set(table.flatten().tolist())


def test_resolving():
    own = partial(torch.arange, 0)
    assert resolve_routes("bidirectional") == (raster, Reverse(raster))
    assert resolve_routes(["raster", own, "bidirectional"]) == (
        raster,
        own,
        raster,
        Reverse(raster),
    )
    with pytest.raises(ValueError, match="routes is 'hilbrt': did you mean 'hilbert'"):
        resolve_routes("hilbrt")
    with pytest.raises(ValueError, match="routes is 'xyz': known are atrous, bidirectional, cross"):
        resolve_routes(["raster", "xyz"])
    assert resolve_routes(own) == (own,)
    with pytest.raises(ValueError, match="routes is empty, expected at least one route"):
        resolve_routes(())
    with pytest.raises(TypeError, match="routes holds 3, expected names and functions"):
        resolve_routes(["raster", 3])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Atrous(2, (2, 0)), r"phase is \(2, 0\), expected 0 to 1 in each place"),
        (lambda: Atrous(2, (0, -1)), r"phase is \(0, -1\), expected 0 to 1 in each place"),
        (lambda: Windowed(0), "size is 0, expected at least 1"),
        (lambda: Joined(()), "routes is empty, expected at least one route"),
        (lambda: Flip(raster, 2), r"axis is 2, expected 0 \(upside down\) or 1"),
    ],
    ids=["phase-high", "phase-negative", "size", "joined", "axis"],
)
def test_impossible_routes_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def listed(H, W):
    return list(range(H * W))


def square(H, W):
    return torch.arange(H * W).view(H, W)


def halves(H, W):
    return torch.arange(H * W) / 2


@pytest.mark.parametrize(
    ("route", "sentence"),
    [
        (listed, "route listed gave a list, expected a Tensor"),
        (square, r"route square gave torch.int64 of shape \(2, 3\), expected integers of one dim"),
        (halves, r"route halves gave torch.float32 of shape \(6,\), expected integers of one dim"),
    ],
)
def test_routes_that_give_no_table_are_named(route, sentence):
    with pytest.raises(ValueError, match=sentence):
        route_table((raster, route), 2, 3)


@pytest.mark.parametrize("size", [(0, 3), (3, 0)], ids=str)
def test_empty_grid_is_refused(size):
    with pytest.raises(ValueError, match=f"the grid is {size[0]}x{size[1]}, expected at least 1x1"):
        route_table((raster,), *size)


def test_tables_are_kept_but_not_without_end():
    first = route_table((raster,), 3, 5)
    assert route_table((raster,), 3, 5) is first
    assert route_table((raster,), 3, 5, "cpu") is first
    assert route_table((Reverse(spiral),), 3, 5) is route_table((Reverse(spiral),), 3, 5)
    for W in range(1, 301):
        route_table((raster,), 1, W)
    assert routes._kept_table.cache_info().currsize == 256
    assert route_table((raster,), 3, 5) is not first


def test_table_first_needed_in_inference_serves_training():
    with torch.inference_mode():
        table = route_table((spiral,), 4, 19)
    assert not table.is_inference()
    x = torch.randn(4 * 19, requires_grad=True)
    x[route_table((spiral,), 4, 19)[0]].sum().backward()
    assert torch.equal(x.grad, torch.ones(4 * 19))


def test_fake_tables_are_not_kept():
    with FakeTensorMode():
        assert route_table((spiral,), 19, 4).shape == (1, 76)
    assert type(route_table((spiral,), 19, 4)) is torch.Tensor


def test_no_device_means_the_default_one():
    with torch.device("meta"):
        assert route_table((raster,), 2, 19).is_meta
    assert route_table((raster,), 2, 19).tolist() == [[*range(38)]]


class Tables(torch.nn.Module):
    def __init__(self, routes, copies):
        super().__init__()
        self.routes, self.copies = resolve_routes(routes), copies

    def forward(self, x):
        return route_table(self.routes, self.copies * x.shape[0], x.shape[1]) + 0


FILLED = (column, Windowed(2, pad=True), ClassToken(Reverse(Windowed(7, pad=True))))
STACKED = Joined((raster, Reverse(column)), stacked=True)
EXPORTED = {name: (name, 1) for name in ROUTE_SETS if name != "hilbert"}
EXPORTED |= {"filled": (FILLED, 1), "joined": (Joined(resolve_routes("cross")), 1)}
PHASES = (Atrous(2, (1, 0), pad=True), Transpose(Atrous(2, (0, 1), pad=True)))
EXPORTED |= {"stacked": (STACKED, 2), "padded-atrous": (PHASES, 1)}


@pytest.mark.parametrize(("routes", "copies"), EXPORTED.values(), ids=EXPORTED)
def test_exports_with_any_height_and_width(routes, copies):
    """Which of the filled windows makes the longest route depends on the size."""
    H, W = torch.export.Dim("H", min=2, max=512), torch.export.Dim("W", min=2, max=512)
    tables, sizes = Tables(routes, copies), ({0: H, 1: W},)
    program = torch.export.export(tables, (torch.zeros(5, 4),), dynamic_shapes=sizes)
    for height, width in [(5, 4), (2, 9), (17, 13), (7, 7), (14, 14)]:
        want = route_table(tables.routes, copies * height, width)
        assert torch.equal(program.module()(torch.zeros(height, width)), want)


@pytest.mark.parametrize("name", ROUTE_SETS)
def test_compiles_without_graph_break(name):
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: x + route_table(resolve_routes(name), 5, 4).sum(),
        fullgraph=True,
        backend="eager",
    )
    want = route_table(resolve_routes(name), 5, 4).sum()
    assert compiled(torch.zeros(1)) == want


@pytest.mark.parametrize("name", ROUTE_SETS)
def test_compiled_code_meets_other_sizes(name):
    """The second size makes H and W symbolic."""
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: route_table(resolve_routes(name), *x.shape) + 0, fullgraph=True, backend="eager"
    )
    for size in [(5, 4), (8, 7), (3, 9), (4, 4), (1, 6)]:
        want = route_table(resolve_routes(name), *size)
        assert torch.equal(compiled(torch.zeros(size)), want), size


def test_hilbert_exports_for_the_size_it_is_traced_with():
    class Hilbert(torch.nn.Module):
        def forward(self, x):
            return hilbert(*x.shape) + 0

    x = torch.zeros(5, 4)
    sizes = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    program = torch.export.export(Hilbert(), (x,), dynamic_shapes=(sizes,), strict=False)
    assert torch.equal(program.module()(x), hilbert(5, 4))
