"""Scan routes: in which order a scan visits the positions of an H×W grid.

A route is a pure function (H, W) → table, a 1-D int64 tensor that holds the position h·W + w
visited at each step. All published scans are such tables; the number below is the step at which
a position is visited:

    raster    column    serpentine   diagonal    spiral      hilbert
    0 1 2     0 3 6     0 1 2        0 1 5       0 1 2        0  1 14 15
    3 4 5     1 4 7     5 4 3        2 4 6       7 8 3        3  2 13 12
    6 7 8     2 5 8     6 7 8        3 7 8       6 5 4        4  7  8 11
                                                              5  6  9 10

Any hashable callable of this form is a route. The classes below make routes of parameters and of
other routes; they are equal if made of equal parts.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import nearest

Route = Callable[[int, int], Tensor]


def raster(H: int, W: int) -> Tensor:
    """Row by row, each from left to right."""
    return torch.arange(H * W)


def column(H: int, W: int) -> Tensor:
    """Column by column, each from top to bottom (VMamba, arXiv 2401.10166)."""
    return _grid(H, W).T.flatten()


def serpentine(H: int, W: int) -> Tensor:
    """Rows in alternating direction: every step is to a neighbour (PlainMamba, 2403.17695)."""
    odd = torch.arange(H)[:, None] % 2 == 1
    return torch.where(odd, _grid(H, W).flip(1), _grid(H, W)).flatten()


def diagonal(H: int, W: int) -> Tensor:
    """Anti-diagonals in alternating direction, JPEG's zig-zag (MHS-VM, arXiv 2406.05992)."""
    h, w = _coordinates(H, W)
    along = torch.where((h + w) % 2 == 1, h, H - 1 - h)
    return _in_order_of((h + w) * H + along)


def spiral(H: int, W: int) -> Tensor:
    """Clockwise inwards from the top left corner (MHS-VM, arXiv 2406.05992)."""
    h, w = _coordinates(H, W)
    ring = torch.minimum(torch.minimum(h, H - 1 - h), torch.minimum(w, W - 1 - w))
    first_half = (h == ring) | (w == W - 1 - ring)  # the ring's top and right side
    ahead = h + w - 2 * ring
    around = torch.where(first_half, ahead, 2 * (H + W) - ahead)
    return _in_order_of(ring * 2 * (H + W + 1) + around)


def hilbert(H: int, W: int) -> Tensor:
    """A Hilbert curve for any rectangle: what is near on the route is near in the image.

    Every step is to a neighbour; where the longer side is odd, one step may be diagonal.
    """
    H, W = operator.index(H), operator.index(W)  # a traced size becomes a constant
    walk = _hilbert(W, H, {}) if W >= H else _hilbert(H, W, {}).flip(1)
    w, h = walk.unbind(1)
    return h * W + w


def _hilbert(width: int, height: int, known: dict[tuple[int, int], Tensor]) -> Tensor:
    """Walk a rectangle from its origin to the end of its width: steps (width·height, 2).

    A long rectangle is walked half by half. Any other is walked in three parts: up one half of
    the height, along the width, and down again. Parts of equal size are `known` from the first.
    """
    if (width, height) in known:
        return known[width, height]
    if height == 1 or width == 1:
        walk = torch.cartesian_prod(torch.arange(width), torch.arange(height))
    elif 2 * width > 3 * height:
        half = _even_half(width)
        second = _hilbert(width - half, height, known) + torch.tensor([half, 0])
        walk = torch.cat([_hilbert(half, height, known), second])
    else:
        left, low = width // 2, _even_half(height)
        up = _hilbert(low, left, known).flip(1)
        along = _hilbert(width, height - low, known) + torch.tensor([0, low])
        back = _hilbert(low, width - left, known).flip(1)
        walk = torch.cat([up, along, torch.tensor([width - 1, low - 1]) - back])
    known[width, height] = walk
    return walk


def _even_half(length: int) -> int:
    """Half of a length, rounded up to even where that leaves something: parts of even length
    end beside the next one's start.
    """
    half = length // 2
    return half + 1 if half % 2 and length > 2 else half


def _grid(H: int, W: int) -> Tensor:
    """The positions, (H, W)."""
    return torch.arange(H * W).view(H, W)


def _coordinates(H: int, W: int) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (1, W)."""
    return torch.arange(H)[:, None], torch.arange(W)[None]


def _row_and_column(position: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of positions; ONNX's exporter knows no remainder of a symbolic number."""
    row = position // columns
    return row, position - row * columns


def _or_blank(h: Tensor, w: Tensor, H: int, W: int) -> Tensor:
    """The positions of rows h and columns w, outside of the grid the blank token H·W.

    Padded routes compute theirs step by step, since slices and paddings fix a symbolic H or W.
    """
    return torch.where((h < H) & (w < W), h * W + w, H * W)


def _in_order_of(key: Tensor) -> Tensor:
    """The positions sorted by a key (H, W), row-major among equals.

    By different numbers, since ONNX's exporter knows no stable sort.
    """
    length = key.numel()
    return (key.flatten() * length + torch.arange(length)).sort().indices


class _Made:
    """A route made of parameters or of another route, shown as the call that makes it."""

    def __repr__(self) -> str:
        values = (getattr(self, field.name) for field in fields(self))
        return f"{type(self).__name__}({', '.join(map(_shown, values))})"


def _shown(value: object) -> str:
    """A function by its name, a tuple of them by theirs."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    return getattr(value, "__name__", repr(value))


@dataclass(frozen=True, repr=False)
class Atrous(_Made):
    """Every step-th row and column, from the phase (row, column) on (EfficientVMamba, 2403.09977).

    The step² phases partition the grid. With `pad`, the grid is first padded to a multiple of
    the step with blank tokens, so that all phases have the same length.
    """

    step: int = 2
    phase: tuple[int, int] = (0, 0)
    pad: bool = False

    def __post_init__(self):
        if not all(0 <= start < self.step for start in self.phase):
            raise ValueError(f"phase is {self.phase}, expected 0 to {self.step - 1} in each place")

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of an H×W grid; empty where the phase lies outside."""
        row, column = self.phase
        skipped_h, skipped_w = (0, 0) if self.pad else self.phase
        rows, columns = -((skipped_h - H) // self.step), -((skipped_w - W) // self.step)
        h, w = _row_and_column(torch.arange(rows * columns), columns)
        h, w = h * self.step + row, w * self.step + column
        return _or_blank(h, w, H, W) if self.pad else h * W + w


@dataclass(frozen=True, repr=False)
class Windowed(_Made):
    """Window by window, row-major among windows and inside them (LocalMamba, 2403.09338).

    Windows at the right and bottom border are clipped, or with `pad` filled with blank tokens.
    """

    size: int
    pad: bool = False

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size is {self.size}, expected at least 1")

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of an H×W grid."""
        if self.pad:
            return self._filled(H, W)
        h, w = _coordinates(H, W)
        return _in_order_of(h // self.size * W + w // self.size)

    def _filled(self, H: int, W: int) -> Tensor:
        """The table with blanks."""
        rows, columns = -(-H // self.size), -(-W // self.size)
        step = torch.arange(rows * columns * self.size**2)
        window, inside = step // self.size**2, step % self.size**2
        window_h, window_w = _row_and_column(window, columns)
        h = window_h * self.size + inside // self.size
        w = window_w * self.size + inside % self.size
        return _or_blank(h, w, H, W)


@dataclass(frozen=True, repr=False)
class Reverse(_Made):
    """The same route from its end to its start."""

    route: Route

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of an H×W grid."""
        return self.route(H, W).flip(0)


@dataclass(frozen=True, repr=False)
class Transpose(_Made):
    """The same route with rows and columns exchanged: `Transpose(raster)` equals `column`."""

    route: Route

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of an H×W grid."""
        return _with_blank(_grid(H, W).T)[self.route(W, H)]


@dataclass(frozen=True, repr=False)
class Flip(_Made):
    """The same route mirrored: axis 0 turns the image upside down, axis 1 left to right."""

    route: Route
    axis: int

    def __post_init__(self):
        if self.axis not in (0, 1):
            raise ValueError(f"axis is {self.axis}, expected 0 (upside down) or 1 (left to right)")

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of an H×W grid."""
        return _with_blank(_grid(H, W).flip(self.axis))[self.route(H, W)]


@dataclass(frozen=True, repr=False)
class ClassToken(_Made):
    """The same route over a class token and the grid, numbered 0 and from 1 on.

    The token is visited after H·W // 2 steps (Vim, arXiv 2401.09417). The blank token's number
    stays the one behind all others, here H·W + 1.
    """

    route: Route

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of a class token and an H×W grid."""
        before, after = self.route(H, W).add(1).tensor_split([H * W // 2])
        return torch.cat([before, before.new_zeros(1), after])


@dataclass(frozen=True, repr=False)
class Joined(_Made):
    """Routes one after the other as one: the scan's state goes on from each to the next.

    The outputs of the visits to a position are added up. With `stacked` they stay apart: the grid
    is then one copy of the image for each route, from top to bottom, and each route visits its own.

    Source: the half-resolution branch of MSVMamba, arXiv 2405.14174.
    """

    routes: tuple[Route, ...]
    stacked: bool = False

    def __post_init__(self):
        if not self.routes:
            raise ValueError("routes is empty, expected at least one route")

    def __call__(self, H: int, W: int) -> Tensor:
        """The table of an H×W grid."""
        if not self.stacked:
            return torch.cat([route(H, W) for route in self.routes])
        copies = len(self.routes)
        if H % copies:
            raise ValueError(f"the grid has {H} rows, expected {copies} copies of an image")
        tables = [route(H // copies, W) for route in self.routes]
        L = H // copies * W  # positions of a copy, and its blank token
        return torch.cat([torch.where(t == L, H * W, t + i * L) for i, t in enumerate(tables)])


def _with_blank(positions: Tensor) -> Tensor:
    """A lookup table that maps the blank token to itself."""
    blank = torch.arange(1) + positions.numel()  # as a padding value, a symbolic size were constant
    return torch.cat([positions.flatten(), blank])


def uses_blank(route: Route) -> bool:
    """Whether a route visits the blank token, an all-zero token at index H·W."""
    if isinstance(route, Joined):
        return any(map(uses_blank, route.routes))
    inner = getattr(route, "route", None)
    return getattr(route, "pad", False) if inner is None else uses_blank(inner)


def is_permutation(route: Route) -> bool:
    """Whether a route is known to visit every position of any grid exactly once."""
    if isinstance(route, Reverse | Transpose | Flip):
        return is_permutation(route.route)
    if isinstance(route, Joined):
        return (route.stacked or len(route.routes) == 1) and all(map(is_permutation, route.routes))
    return route in PERMUTATIONS or (isinstance(route, Windowed) and not route.pad)


PERMUTATIONS = (raster, column, serpentine, diagonal, spiral, hilbert)


def _both_ways(*routes: Route) -> tuple[Route, ...]:
    return routes + tuple(Reverse(route) for route in routes)


ROUTE_SETS: dict[str, tuple[Route, ...]] = {
    "raster": (raster,),
    "bidirectional": _both_ways(raster),
    "cross": _both_ways(raster, column),
    "serpentine": _both_ways(serpentine, Transpose(serpentine)),
    "diagonal": _both_ways(diagonal, Flip(diagonal, 1)),
    "spiral": _both_ways(spiral, Flip(spiral, 0)),
    "hilbert": _both_ways(hilbert, Transpose(hilbert)),
    "windowed": _both_ways(Windowed(2), Transpose(Windowed(2))),
    "atrous": (
        Atrous(2, (0, 0)),
        Transpose(Atrous(2, (0, 1))),
        Atrous(2, (0, 1)),
        Transpose(Atrous(2, (1, 1))),
    ),
}


def resolve_routes(routes: str | Route | Sequence[str | Route]) -> tuple[Route, ...]:
    """Routes from a name in `ROUTE_SETS`, from a route, or from a sequence of names and routes.

    Raises:
        ValueError: for an unknown name or no route at all.
        TypeError: for anything else.
    """
    if isinstance(routes, str):
        if routes not in ROUTE_SETS:
            raise ValueError(f"routes is {routes!r}: {nearest(routes, ROUTE_SETS)}")
        return ROUTE_SETS[routes]
    if callable(routes):
        return (routes,)
    if not isinstance(routes, Iterable):
        raise TypeError(f"routes holds {routes!r}, expected names and functions (H, W) → table")
    resolved = tuple(route for part in routes for route in resolve_routes(part))
    if not resolved:
        raise ValueError("routes is empty, expected at least one route")
    return resolved


def routes_by_block(
    routes: str | Route | Sequence[str | Route] | Sequence[Sequence[str | Route]],
    blocks: int,
    of: str = "blocks",
) -> Sequence[str | Route | Sequence[str | Route]]:
    """Routes of every block of a model: the same for all, or those of a sequence of sequences.

    Raises:
        ValueError: if that sequence is not as long as the model; it calls the blocks by `of`.
    """
    if callable(routes) or not routes or not all(isinstance(part, list | tuple) for part in routes):
        return [routes] * blocks
    if len(routes) != blocks:
        raise ValueError(f"routes has {len(routes)} parts, expected one for each of {blocks} {of}")
    return routes


def routes_by_head(
    routes: str | Route | Sequence[str | Route] | Sequence[Sequence[str | Route]], heads: int
) -> tuple[Route, ...]:
    """Routes of a scan with heads: the first one of every head, then every head's second, ...

    Args:
        routes: as in `resolve_routes`, the same for all heads; or a sequence of such sequences,
            one for each head.
        heads: number of heads.

    Raises:
        ValueError: if there are not as many sequences as heads, or not as many routes in each.
    """
    by_head = [resolve_routes(part) for part in routes_by_block(routes, heads, "heads")]
    counts = [len(part) for part in by_head]
    if len(set(counts)) > 1:
        raise ValueError(f"the heads have {counts} routes, expected as many for each")
    return tuple(route for nth in zip(*by_head, strict=True) for route in nth)


def route_table(
    routes: tuple[Route, ...], H: int, W: int, device: torch.device | str | None = None
) -> Tensor:
    """The tables of K routes as one, (K, T) int32; shorter routes end in -1, "no step".

    Tables are kept for the next call with the same arguments: do not write to them. While a graph
    is traced they are part of the graph instead, for symbolic H and W too unless a route is
    hilbert.

    Raises:
        ValueError: if the grid is empty, or a route gives no 1-D tensor of integers.
    """
    if torch.compiler.is_compiling():
        return _stack(routes, H, W).to(device)
    if min(H, W) < 1:
        raise ValueError(f"the grid is {H}x{W}, expected at least 1x1")
    new = torch.empty(0, device=device)  # shows the device in full and whether tensors are real
    if type(new) is not Tensor:
        return _stack(routes, H, W).to(device)
    return _kept_table(routes, H, W, new.device)


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # a table first needed in inference must serve training too
def _kept_table(routes: tuple[Route, ...], H: int, W: int, device: torch.device) -> Tensor:
    return _stack(routes, H, W).to(device)


def _stack(routes: tuple[Route, ...], H: int, W: int) -> Tensor:
    tables = [_table(route, H, W) for route in routes]
    return torch.nn.utils.rnn.pad_sequence(tables, batch_first=True, padding_value=-1).int()


def _table(route: Route, H: int, W: int) -> Tensor:
    """What a route gives, refused if that is no table."""
    table = route(H, W)
    if not isinstance(table, Tensor):
        raise ValueError(f"route {_shown(route)} gave a {type(table).__name__}, expected a Tensor")
    integers = not (table.is_floating_point() or table.is_complex() or table.dtype == torch.bool)
    if table.dim() != 1 or not integers:
        raise ValueError(
            f"route {_shown(route)} gave {table.dtype} of shape {tuple(table.shape)}, expected"
            " integers of one dimension"
        )
    return table
