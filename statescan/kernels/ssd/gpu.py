"""SSD on a GPU, by `gpu_kernels.py`; the interface is that of `chunked.py` and `gradients.py`.

Where routes are permutations, kernels write the rows of positions, each route its own. Otherwise
they write the rows of steps, which are added up at their positions afterwards.
"""

import torch
from torch import Tensor

from .. import _triton
from .._triton import processors
from ..selective_scan.gpu import in_rows, strides
from ..selective_scan.streaming import add_rows
from . import gpu_kernels as kernels
from .chunked import CHUNK

FORWARD_STEPS, BACKWARD_STEPS = 32, 16  # of a chunk, whose products stay in registers
CARRIED = 1024  # numbers of a state that a program carries over the chunks
PROGRAMS_A_PROCESSOR = 4  # with fewer, the heads of a group are shared out


def side(size: int, largest: int) -> int:
    """The side of a block over a dimension; products take no less than 16."""
    return next(b for b in (16, 32, 64) if b in (largest, max(b, size)))


class Call:
    """A call's inputs in the form that the kernels read, and the sizes that they take."""

    def __init__(self, x, dt, A, B, C, D, dt_bias, routes, once):
        self.batch, self.length, self.K, self.H = dt.shape
        (self.G, self.N), self.P = B.shape[3:], x.shape[-1]
        self.x, self.B, self.C = (in_rows(t.flatten(-2)) for t in (x, B, C))
        self.dt = in_rows(dt)
        self.A = A.float().contiguous()
        self.D, self.bias = (
            torch.zeros_like(self.A) if t is None else t.float().contiguous() for t in (D, dt_bias)
        )
        self.routes = routes.int().contiguous()
        self.once = once
        self.chunks = -(-routes.shape[1] // CHUNK)
        self.heads = self.chunks * self.K * self.batch * self.H

    def sizes(self) -> tuple[int, ...]:
        """The integers that kernels take last, in their order."""
        heads, steps = self.H // self.G, self.routes.shape[1]
        return (self.batch, self.length, self.K, self.H, heads, steps, self.N, self.P)

    def strides(self, *others: Tensor) -> tuple[int, ...]:
        """Strides of the inputs' rows, and of others'."""
        return tuple(s for t in (self.x, self.dt, self.B, self.C, *others) for s in strides(t))

    def options(self, N: int, P: int, **options) -> dict:
        """Compile-time arguments, with the largest sides of a block over N and P."""
        blocks = {"BLOCK_N": side(self.N, N), "BLOCK_P": side(self.P, P)}
        options |= {"CHUNK": CHUNK, "PRODUCTS": _triton.products()}
        return {**blocks, **options, "num_warps": 8, "num_stages": 1}

    def factors(self) -> str:
        """How C Bᵀ is multiplied: numbers of 16 bits are TF32 as they are."""
        wide = torch.float32 in (self.B.dtype, self.C.dtype)
        return "tf32" if _triton.products() == "tf32x3" and not wide else _triton.products()

    def floats(self, *shape: int) -> Tensor:
        """An array that a kernel fills."""
        return self.x.new_empty(shape, dtype=torch.float32)

    def output(self, like: Tensor, *columns: int) -> Tensor:
        """Rows (B, L or T, K, ·) that a kernel stores to; those of no step are zero."""
        if self.once:
            return like.new_empty(self.batch, self.length, self.K, *columns)
        return self.floats(self.batch, self.routes.shape[1], self.K, *columns).zero_()

    def states(self, values: Tensor, matrix: Tensor, back: bool) -> Tensor:
        """States between chunks, or going back their gradients, (chunks + 1, K, B, H, N, P)."""
        states = self.floats(self.chunks + 1, self.K, self.batch, self.H, self.N, self.P)
        totals = self.floats(self.chunks, self.K, self.batch, self.H)
        options = self.options(N=64, P=32, BACK=back)
        blocks = -(-self.N // options["BLOCK_N"]) * -(-self.P // options["BLOCK_P"])
        _triton.launch(
            kernels.leave,
            (self.heads * blocks,),
            *(values, self.dt, self.A, matrix, self.bias, self.routes, states, totals),
            *(*strides(values), *strides(self.dt), *strides(matrix), *self.sizes()),
            **options,
        )
        heads, size = self.K * self.batch * self.H, self.N * self.P
        _triton.launch(
            kernels.carry,
            (heads * -(-size // CARRIED),),
            *(states, totals, heads, size, self.chunks),
            *((self.chunks, -1) if back else (0, 1)),
            BLOCK=CARRIED,
            num_warps=4,
        )
        return states

    def at_positions(self, rows: Tensor) -> Tensor:
        """Rows (B, L, K, ·) from those that a kernel wrote, added up in a fixed order."""
        if self.once:
            return rows
        sample = torch.arange(self.batch, device=rows.device)[:, None, None] * self.length
        position = sample + self.routes.mT.clamp(0, self.length - 1)
        visit = position * self.K + torch.arange(self.K, device=rows.device)
        sums = rows.new_zeros(self.batch * self.length * self.K, rows[0, 0, 0].numel())
        add_rows(sums, visit.flatten(), rows)
        return sums.view(self.batch, self.length, *rows.shape[2:])


def merged(t: Tensor) -> Tensor:
    """The sum over the routes of (B, L, K, ...)."""
    return t.sum(2) if t.shape[2] > 1 else t.squeeze(2)


def forward(x, dt, A, B, C, D, dt_bias, routes, merge, once) -> tuple[Tensor, Tensor]:
    """As `chunked.forward`: y and the states between chunks."""
    call = Call(x, dt, A, B, C, D, dt_bias, routes, once)
    states = call.states(call.x, call.B, back=False)
    y = call.output(x, call.H, call.P)
    options = call.options(N=16, P=32, STEPS=FORWARD_STEPS, ONCE=once, FACTORS=call.factors())
    _triton.launch(
        kernels.forward,
        (call.heads * -(-call.P // options["BLOCK_P"]),),
        *(call.x, call.dt, call.A, call.B, call.C, call.D, call.bias, call.routes, states, y),
        *(*call.strides(), *call.sizes()),
        **options,
    )
    y = call.at_positions(y)
    return (merged(y) if merge else y).to(x.dtype), states


def backward(
    dy, saved, x, dt, A, B, C, D, dt_bias, routes, merge, once
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D and dt_bias, as `gradients.backward`."""
    call = Call(x, dt, A, B, C, D, dt_bias, routes, once)
    dy = in_rows(dy.flatten(-2))
    handed = call.states(dy, call.C, back=True)
    dx, dz = call.output(x, call.H, call.P), call.output(dt, call.H)
    dA, dD, dbias = call.floats(3, call.chunks, call.K, call.batch, call.H)
    _triton.launch(
        kernels.backward,
        (call.heads,),
        *(call.x, call.dt, call.A, call.B, call.C, call.D, call.bias, call.routes),
        *(dy, saved, handed, dx, dz, dA, dD, dbias, *call.strides(dy), *call.sizes()),
        **call.options(N=16, P=32, STEPS=BACKWARD_STEPS, ONCE=once, FACTORS=call.factors()),
    )
    dB, dC = backward_shared(call, dy, saved, handed)
    dx, dz, dB, dC = map(call.at_positions, (dx, dz, dB, dC))
    dA, dD, dbias = (t.sum((0, 2)) for t in (dA, dD, dbias))
    grads = (merged(dx) if x.dim() == 4 else dx, dz, dA, dB, dC, dD, dbias)
    given = (x, dt, A, B, C, D, dt_bias)
    return tuple(
        None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, given, strict=True)
    )


def backward_shared(call: Call, dy: Tensor, saved: Tensor, handed: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of B and C, (B, L or T, K, G, N)."""
    options = call.options(N=32, P=32, STEPS=BACKWARD_STEPS, ONCE=call.once)
    groups = call.chunks * call.K * call.batch * call.G * -(-call.N // options["BLOCK_N"])
    wanted = PROGRAMS_A_PROCESSOR * processors(dy.device)
    parts = min(call.H // call.G, -(-wanted // max(1, groups)))
    shape = (parts, call.batch, call.length if call.once else call.routes.shape[1], call.K)
    numbers = call.floats if call.once else lambda *shape: call.floats(*shape).zero_()
    dB, dC = (numbers(*shape, call.G, call.N) for _ in range(2))
    _triton.launch(
        kernels.backward_shared,
        (groups * parts,),
        *(call.x, call.dt, call.A, call.B, call.C, call.bias, call.routes, dy, saved, handed),
        *(dB, dC, *call.strides(dy), *call.sizes(), parts),
        **options,
    )
    return dB.sum(0), dC.sum(0)
