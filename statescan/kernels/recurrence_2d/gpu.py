"""2DMamba's and Mamba2D's recurrences on a GPU, by `gpu_kernels.py`; as in `streaming.py`.

Every program owns a group of states, few enough for its registers; what the groups give is added up
afterwards, in float32 and a fixed order. Forward saves nothing: backward reads the inputs alone.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _triton
from .._triton import processors
from ..selective_scan.gpu import in_rows
from . import gpu_kernels as kernels

MOST_STATES = 4  # of a program, in registers for every column of a strip; more make groups
BLOCK = 32  # channels of a program: a lane each
COLUMNS, COLUMNS_BACK = 8, 4  # of a strip, forward and backward
ROWS = 8  # of a tile: the states of so many rows are in memory at once on the way back
PROCESSORS_A_PROGRAM = 4  # an estimate, not measured: with fewer programs torch is the faster


class Entry(NamedTuple):
    """How x and a neighbour's state enter a cell: the left's, or the one that 2DMamba has."""

    dt: Tensor  # (B, H, W, C)
    A: Tensor  # (C, N)
    B: Tensor  # (B, H, W, N)
    dt_bias: Tensor  # (C,)


def grouped(N: int) -> tuple[int, int]:
    """Groups of N states, and the states of one."""
    groups = -(-N // MOST_STATES)
    return groups, -(-N // groups)


def pays(x: Tensor, N: int) -> bool:
    """Whether there are programs enough: each walks a whole grid alone, torch walks in parallel."""
    programs = len(x) * grouped(N)[0] * -(-x.shape[-1] // BLOCK)
    return PROCESSORS_A_PROGRAM * programs >= processors(x.device)


class Call:
    """A call's inputs in the form that the kernels read, and how it is shared out."""

    def __init__(self, x: Tensor, entries: list[Entry], C: Tensor, D: Tensor, columns: int):
        self.batch, self.H, self.W, self.channels = x.shape
        self.groups, self.N = grouped(C.shape[-1])
        self.two = len(entries) == 2
        self.columns = columns
        self.blocks = -(-self.channels // BLOCK)
        self.programs = self.batch * self.groups * self.blocks
        dt, A, B, bias = zip(entries[0], entries[-1], strict=True)  # of the left and the top
        self.x, self.dt = rows(x), [rows(t) for t in dt]
        self.B, self.C = [rows(self.whole(t)) for t in B], rows(self.whole(C))
        self.A = [self.whole(t.float()).mT.contiguous() for t in A]
        self.bias, self.D = [t.float().contiguous() for t in bias], D.float().contiguous()

    def whole(self, t: Tensor) -> Tensor:
        """A tensor (..., N) with zeros for the states that its last group lacks; they stay zero."""
        missing = self.groups * self.N - t.shape[-1]
        return F.pad(t, (0, missing)) if missing else t

    def floats(self, *shape: int) -> Tensor:
        """An array that a kernel fills."""
        return self.x.new_empty(shape, dtype=torch.float32)

    def parts(self, like: Tensor) -> Tensor:
        """A map for each group to fill, in float32 where there are several."""
        dtype = like.dtype if self.groups == 1 else torch.float32
        return like.new_empty(self.groups, *like.shape, dtype=dtype)

    def launch(self, kernel, *arguments: Tensor, dy: Tensor | None = None, **options) -> None:
        """Run a kernel on the inputs, dy where there is one, and its own arguments."""
        inputs = (self.x, *self.dt, *self.A, *self.B, *self.bias, self.C, self.D)
        given = () if dy is None else (dy,)
        strides = (t.stride(1) for t in (self.x, *self.dt, *self.B, self.C, *given))
        sizes = (self.batch, self.H, self.W, self.channels, self.groups)
        options |= {"N": self.N, "TWO": self.two, "BLOCK": BLOCK}
        options |= {"COLUMNS": self.columns, "ROWS": ROWS, "num_warps": 1}
        _triton.launch(
            kernel, (self.programs,), *inputs, *given, *arguments, *strides, *sizes, **options
        )


def rows(t: Tensor) -> Tensor:
    """A grid (B, H, W, ...) as rows (B, H·W, ...), read in place where they have one stride."""
    return in_rows(t.flatten(1, 2))


def total(parts: Tensor, like: Tensor) -> Tensor:
    """The sum over the first dimension, as a gradient of a tensor of perhaps fewer states."""
    sums = parts.squeeze(0) if len(parts) == 1 else parts.sum(0)
    return sums[..., : like.shape[-1]].to(like.dtype).contiguous()


def forward(x: Tensor, entries: list[Entry], C: Tensor, D: Tensor) -> Tensor:
    """Y, from one entry for both neighbours or from the left's and the top's."""
    call = Call(x, entries, C, D, COLUMNS)
    y = call.parts(x)
    edges = call.floats(call.programs, call.H, call.N, BLOCK)
    call.launch(kernels.forward, y, edges, edges, EDGES=False)
    return total(y, x)


def backward(
    dy: Tensor, x: Tensor, entries: list[Entry], C: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Entry]]:
    """Gradients of x, C, D and the entries."""
    call = Call(x, entries, C, D, COLUMNS_BACK)
    strips, tiles = -(-call.W // call.columns), -(-call.H // ROWS)
    edges = call.floats(call.programs, strips, call.H, call.N, BLOCK)
    tops = call.floats(call.programs, strips, tiles, call.columns, call.N, BLOCK)
    call.launch(kernels.forward, edges, edges, tops, EDGES=True)
    handed = call.floats(call.programs, call.H, call.N, BLOCK)
    scratch = call.floats(call.programs, ROWS + 1, call.columns, call.N, BLOCK)
    states = call.groups * call.N
    dx, dz = call.parts(x), [call.parts(e.dt) for e in entries]
    dA = [call.floats(call.batch, states, call.channels) for _ in entries]
    dbias = [call.floats(call.batch * call.groups, call.channels) for _ in entries]
    dC, *dB = (call.floats(call.blocks, *x.shape[:3], states) for _ in range(1 + len(entries)))
    dD = call.floats(call.batch, call.channels)
    both = (t for grads in (dz, dA, dB, dbias) for t in (grads[0], grads[-1]))
    call.launch(kernels.backward, edges, tops, handed, scratch, dx, *both, dC, dD, dy=rows(dy))
    of_entries = [
        Entry(total(z, e.dt), total(a.mT, e.A), total(b, e.B), total(bias, e.dt_bias))
        for e, z, a, b, bias in zip(entries, dz, dA, dB, dbias, strict=True)
    ]
    return total(dx, x), total(dC, C), total(dD, D), of_entries


def scan_2dmamba(x, dt, A, B, C, D, dt_bias) -> Tensor:
    """As `streaming.scan_2dmamba`."""
    return forward(x, [Entry(dt, A, B, dt_bias)], C, D)


def scan_2dmamba_backward(dy, x, dt, A, B, C, D, dt_bias) -> list[Tensor]:
    """As `streaming.scan_2dmamba_backward`."""
    dx, dC, dD, [entry] = backward(dy, x, [Entry(dt, A, B, dt_bias)], C, D)
    return [dx, entry.dt, entry.A, entry.B, dC, dD, entry.dt_bias]


def scan_mamba2d(
    x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> Tensor:
    """As `streaming.scan_mamba2d`."""
    left = Entry(dt_left, A_left, B_left, dt_bias_left)
    top = Entry(dt_top, A_top, B_top, dt_bias_top)
    return forward(x, [left, top], C, D)


def scan_mamba2d_backward(
    dy, x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> list[Tensor]:
    """As `streaming.scan_mamba2d_backward`."""
    left = Entry(dt_left, A_left, B_left, dt_bias_left)
    top = Entry(dt_top, A_top, B_top, dt_bias_top)
    dx, dC, dD, (left, top) = backward(dy, x, [left, top], C, D)
    dt, A, B, dt_bias = zip(top, left, strict=True)
    return [dx, *dt, *A, *B, dC, dD, *dt_bias]
