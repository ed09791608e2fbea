"""The selective scan on a GPU, by `gpu_kernels.py`; the interface is `streaming.py`'s.

Every route is a program of its own whose output goes to rows of its own, added up afterwards.
Routes that visit positions again or leave some out take turns in one program and share the rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _triton
from .._triton import processors
from . import gpu_kernels as kernels
from .streaming import CHUNK

MOST_RANK = 32  # a larger dt is expanded by one matrix product before the scan
MOST_STATES = 16  # of a program, which holds them in registers; more are scanned in groups
PROGRAMS_A_PROCESSOR = 12  # that keep its memory busy; with fewer, routes are cut into segments
SHORTEST = 4  # chunks of a segment: joining segments costs a second pass over dt


class Tile(NamedTuple):
    """How a kernel walks: channels of a program, steps that are read together, and its warps."""

    BLOCK: int
    STEPS: int
    WARPS: int = 1


def tile(N: int, once: bool, backward: bool) -> Tile:
    """The tile for N states: as much as stays in registers."""
    if N <= 2:
        return Tile(64, 8 if once and not backward else 4)
    return Tile(32, 2 if N > 8 and backward else 4)


def in_rows(t: Tensor) -> Tensor:
    """Rows (B, L, ..., C), or a copy whose samples follow each other and whose last stride is 1."""
    follows = t.stride(0) == t.shape[1] * t.stride(1) or len(t) == 1
    return t if follows and (t.stride(-1) == 1 or t.shape[-1] == 1) else t.contiguous()


def strides(t: Tensor) -> tuple[int, int]:
    """Elements of t (B, L, C) or (B, L, K, C) from position to position and from route to route."""
    return t.stride(1), t.stride(2) if t.dim() == 4 else 0


class Call:
    """A call's inputs in the form that the kernels read, and how it is shared out."""

    def __init__(self, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once, *, backward):
        self.batch, self.length, self.K, rank = dt.shape
        self.channels, self.N = A.shape[1:]
        if dt_weight is not None and rank > MOST_RANK:
            dt, dt_weight, rank = expand(dt, dt_weight), None, 0
        self.low_rank, self.rank = dt_weight is not None, rank if dt_weight is not None else 0
        self.x, self.dt, self.B, self.C = map(in_rows, (x, dt, B, C))
        self.A = A.float().mT.contiguous()
        self.D, self.bias = D.float().contiguous(), dt_bias.float().contiguous()
        self.weight = dt_weight.float().mT.contiguous() if self.low_rank else self.D
        self.routes = routes.int().contiguous()
        self.once = once
        self.in_turn = merge and not once
        self.tile = tile(self.N, once, backward)
        self.blocks = -(-self.channels // self.tile.BLOCK)
        self.chunks = -(-routes.shape[1] // CHUNK)
        self.segments, self.segment_chunks = self.cut()

    def cut(self) -> tuple[int, int]:
        """Segments of a route, and the chunks of one: enough programs for the device."""
        if not self.once:
            return 1, self.chunks
        programs = self.batch * self.K * self.blocks
        wanted = PROGRAMS_A_PROCESSOR * processors(self.x.device) // max(1, programs)
        size = max(SHORTEST, -(-self.chunks // max(1, wanted)))
        return -(-self.chunks // size), size

    def programs(self, segments: int) -> tuple[int]:
        """The grid of programs for this many segments."""
        return (self.batch * segments * self.blocks * (1 if self.in_turn else self.K),)

    def sizes(self) -> tuple[int, ...]:
        """The integers that kernels take last, in their order."""
        routes = self.routes.shape[1]
        sizes = (self.batch, self.length, self.channels, self.K, self.rank, routes)
        return (*sizes, self.chunks, self.segments, self.segment_chunks)

    def options(self, local: bool) -> dict:
        """The kernels' compile-time arguments."""
        return {
            "N": self.N,
            "LOW_RANK": self.low_rank,
            "IN_TURN": self.in_turn,
            "ONCE": self.once,
            "LOCAL": local,
            "CHUNK": CHUNK,
            "BLOCK": self.tile.BLOCK,
            "STEPS": self.tile.STEPS,
            "num_warps": self.tile.WARPS,
        }

    def inputs(self) -> tuple[Tensor, ...]:
        """The arrays that every kernel reads first."""
        return (
            *(self.x, self.dt, self.A, self.B, self.C, self.D, self.weight, self.bias),
            self.routes,
        )

    def input_strides(self) -> tuple[int, ...]:
        """Strides of the rows among them."""
        return tuple(s for t in (self.x, self.dt, self.B, self.C) for s in strides(t))

    def floats(self, *shape: int) -> Tensor:
        """An array that a kernel fills."""
        return self.x.new_empty(shape, dtype=torch.float32)

    def output(self, like: Tensor, *shape: int) -> Tensor:
        """Rows that a kernel stores to, or in float32 adds to."""
        return like.new_empty(shape) if self.once else like.new_zeros(shape, dtype=torch.float32)

    def join(self, local: Tensor, totals: Tensor, step: int, first: int, direction: int) -> None:
        """Carry states, or their gradients, over the segments."""
        _triton.launch(
            kernels.carry,
            (self.batch * self.K * self.blocks,),
            *(local, totals, self.A, self.batch, self.channels, self.K, self.segments - 1),
            *(step, first, direction),
            N=self.N,
            BLOCK=self.tile.BLOCK,
            num_warps=1,
        )


def expand(dt: Tensor, dt_weight: Tensor) -> Tensor:
    """Low-rank dt (B, L, K, R) times its weight (K, C, R): (B, L, K, C)."""
    return torch.einsum("blkr,kcr->blkc", dt, dt_weight.to(dt.dtype))


def forward(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once) -> tuple[Tensor, Tensor]:
    """As `streaming.forward`: y and the states between chunks."""
    if A.shape[-1] > MOST_STATES:
        groups = state_groups(A, B, C, D)
        parts = [forward(x, dt, *g, dt_weight, dt_bias, routes, merge, once) for g in groups]
        ys, saved = zip(*parts, strict=True)
        return sum(ys[1:], ys[0]), torch.cat(saved, dim=3)
    call = Call(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once, backward=False)
    rows = (call.batch, call.length, call.channels)
    y = call.output(x, *(rows if call.in_turn else (*rows[:2], call.K, rows[2])))
    saved = call.floats(call.chunks + 1, call.K, call.batch, call.N, call.channels)
    totals = call.floats(call.segments, call.K, call.batch, call.channels)

    def run(segments: int, local: bool) -> None:
        _triton.launch(
            kernels.forward,
            call.programs(segments),
            *(*call.inputs(), y, saved, totals, *call.input_strides(), *strides(y), *call.sizes()),
            **call.options(local),
        )

    if call.segments > 1:
        run(call.segments, local=True)
        size = call.segment_chunks * saved.stride(0)
        call.join(saved[call.segment_chunks :], totals, size, 0, 1)
    run(call.segments, local=False)
    if merge and not call.in_turn:
        y = y.sum(2) if call.K > 1 else y.squeeze(2)
    return y.to(x.dtype), saved


def backward(
    dy, saved, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, dt_weight and dt_bias, as `streaming.backward`."""
    if A.shape[-1] > MOST_STATES:
        groups = zip(saved.split(MOST_STATES, dim=3), state_groups(A, B, C, D), strict=True)
        parts = [  # each group's saved states as rows of its own
            backward(dy, h.contiguous(), x, dt, *g, dt_weight, dt_bias, routes, merge, once)
            for h, g in groups
        ]
        return join_groups(parts)
    call = Call(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once, backward=True)
    dy = in_rows(dy)
    rows = (call.batch, call.length, call.K)
    own_dx = x.dim() == 4 or not call.in_turn
    dx = call.output(x, *(rows if own_dx else rows[:2]), call.channels)
    dz = call.output(x, *rows, call.channels)
    numbers = call.floats if once else lambda *shape: call.floats(*shape).zero_()
    dB, dC = (numbers(call.blocks, *rows, call.N) for _ in range(2))
    slots = (call.batch * call.segments, call.K)
    dA = call.floats(*slots, call.N, call.channels)
    dD, dbias = (call.floats(*slots, call.channels) for _ in range(2))
    handed = call.floats(call.segments, *saved.shape[1:])
    totals = call.floats(call.segments, call.K, call.batch, call.channels)
    grid = call.programs(call.segments)
    scratch = call.floats(*grid, CHUNK // call.tile.STEPS, call.N, call.tile.BLOCK)

    def run(local: bool) -> None:
        _triton.launch(
            kernels.backward,
            grid,
            *(*call.inputs(), dy, saved, handed, totals, scratch, dx, dz, dA, dB, dC, dD, dbias),
            *(*call.input_strides(), *strides(dy), *strides(dx), *call.sizes()),
            **call.options(local),
        )

    if call.segments > 1:
        run(local=True)
        call.join(handed, totals, handed.stride(0), call.segments - 1, -1)
    run(local=False)
    if x.dim() == 3 and own_dx:
        dx = dx.sum(2) if call.K > 1 else dx.squeeze(2)
    ddt, dweight = low_rank_gradients(dz, dt, dt_weight)
    grads = (dx, ddt, dA.sum(0).mT, dB.sum(0), dC.sum(0), dD.sum(0), dweight, dbias.sum(0))
    given = (x, dt, A, B, C, D, dt_weight, dt_bias)
    return tuple(
        None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, given, strict=True)
    )


def state_groups(A, B, C, D) -> list[tuple[Tensor, ...]]:
    """A, B, C and D of scans whose outputs add up to that of many states; one has the skip."""
    parts = zip(*(t.split(MOST_STATES, dim=-1) for t in (A, B, C)), strict=True)
    return [(*part, D if i == 0 else torch.zeros_like(D)) for i, part in enumerate(parts)]


def join_groups(parts: list[tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
    """Gradients of a scan from those of its groups of states."""
    dx, ddt, dA, dB, dC, dD, dweight, dbias = zip(*parts, strict=True)
    total = lambda grads: None if grads[0] is None else sum(grads[1:], grads[0])  # noqa: E731
    states = (torch.cat(grads, dim=-1) for grads in (dA, dB, dC))
    return total(dx), total(ddt), *states, dD[0], total(dweight), total(dbias)


def low_rank_gradients(
    dz: Tensor, dt: Tensor, dt_weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of dt and of its weight, from dz (B, L, K, C) before softplus."""
    if dt_weight is None:
        return dz, None
    ddt = torch.einsum("blkc,kcr->blkr", dz, dt_weight.to(dz.dtype))
    return ddt, torch.einsum("blkc,blkr->kcr", dz, dt.to(dz.dtype))
