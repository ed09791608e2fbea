"""The 2-D recurrences in pure torch: one vectorised step a row, column or anti-diagonal.

Batch and channels are cut into blocks of about `BLOCK` states; nothing outlives its block but
outputs and gradients, so the backward pass reads the inputs alone and recomputes the rest. Decays
are only ever multiplied into a state, never divided by, so no product can overflow.

Symbols are those of `reference.py`. Inside a block, maps are (B, H, W, C), B and C are
(B, H, W, N, 1), A is (C, N), arrays of states are (B, H, W, N, C), all in the compute dtype.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._arguments import compute_dtype
from ..selective_scan.streaming import LOG2E, softplus, sum_states

BLOCK = 2**19  # states of a block: enough to hide dispatch, few enough for memory
GPU_BLOCK = 2**25  # enough for every row, column or anti-diagonal to fill a GPU


# Blocks: arguments of 4 dimensions are cut by sample and channel, of 5 (B and C) by sample, the
# others by channel.


def blocks(x: Tensor, N: int) -> Iterator[tuple[slice, slice]]:
    """Slices of samples and of channels whose states number about BLOCK, or GPU_BLOCK."""
    batch, H, W, channels = x.shape
    most = BLOCK if x.device.type == "cpu" else GPU_BLOCK
    width = min(channels, max(1, most // max(1, H * W * N)))
    size = max(1, most // max(1, H * W * N * width))
    for b in range(0, batch, size):
        for c in range(0, channels, width):
            yield slice(b, b + size), slice(c, c + width)


def cut(t: Tensor, samples: slice, channels: slice) -> Tensor:
    """The part of an argument that belongs to a block, a view."""
    if t.dim() == 5:
        return t[samples]
    return t[samples, ..., channels] if t.dim() == 4 else t[channels]


def forward(scan: Callable, N: int, *arguments: Tensor) -> Tensor:
    """Run a block's `scan(*arguments) -> y` on every block; y in the dtype of x."""
    x, dtype = arguments[0], compute_dtype(*arguments)
    y = x.new_empty(x.shape)
    for block in blocks(x, N):
        parts = (cut(t, *block).to(dtype).contiguous() for t in arguments)
        cut(y, *block).copy_(scan(*parts))
    return y


def backward(scan: Callable, N: int, dy: Tensor, *arguments: Tensor) -> list[Tensor]:
    """Run a block's `scan(dy, *arguments) -> gradients` on every block and add them up."""
    dtype = compute_dtype(*arguments)
    grads = [t.new_zeros(t.shape, dtype=dtype) for t in arguments]
    for block in blocks(dy, N):
        parts = (cut(t, *block).to(dtype).contiguous() for t in (dy, *arguments))
        for grad, part in zip(grads, scan(*parts), strict=True):
            cut(grad, *block).add_(part)
    return [grad.to(t.dtype) for grad, t in zip(grads, arguments, strict=True)]


class Entry(NamedTuple):
    """How x and one neighbour's state enter a cell."""

    x: Tensor
    z: Tensor  # (B, H, W, C) before softplus
    delta: Tensor  # (B, H, W, C) step size
    A: Tensor  # (N, C)
    B: Tensor  # (B, H, W, N, 1)
    a: Tensor  # (B, H, W, N, C) decay

    @classmethod
    def of(cls, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, dt_bias: Tensor) -> "Entry":
        """Step sizes and decays."""
        z = dt + dt_bias
        delta = softplus(z)
        return cls(x, z, delta, A.mT, B, torch.exp2(delta.unsqueeze(3) * (A.mT * LOG2E)))

    def driven(self) -> Tensor:
        """`delta B x`, (B, H, W, N, C)."""
        return (self.delta * self.x).unsqueeze(3) * self.B

    def backward(self, g: Tensor, decayed: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, dt, A, B and dt_bias.

        From g, the gradients of `delta B x`, and decayed, those of the decays times the decays.
        """
        gB = sum_states(g * self.B)
        dB = (g * (self.delta * self.x).unsqueeze(3)).sum(-1, keepdim=True)
        dA = (decayed * self.delta.unsqueeze(3)).sum((0, 1, 2)).mT
        ddelta = sum_states(decayed * self.A).addcmul_(gB, self.x)
        dz = ddelta.mul_(torch.sigmoid(self.z))
        return gB * self.delta, dz, dA, dB, dz.sum((0, 1, 2))


def read_out(h: Tensor, C: Tensor, D: Tensor, x: Tensor) -> Tensor:
    """`y = C·h + D x`."""
    return sum_states(h * C).addcmul(D, x)


def read_out_backward(dy: Tensor, h: Tensor, D: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of C, of D, and of x through D."""
    dC = (h * dy.unsqueeze(3)).sum(-1, keepdim=True)
    return dC, (dy * x).sum((0, 1, 2)), D * dy


# 2DMamba: along rows, then down columns.


def sweep(h: Tensor, a: Tensor, dim: int) -> Tensor:
    """Add a times the slice before to every slice of h along dim, in order and in place."""
    slices = h.unbind(dim)
    for before, here, decay in zip(slices, slices[1:], a.unbind(dim)[1:], strict=False):
        here.addcmul_(decay, before)
    return h


def sweep_back(g: Tensor, a: Tensor, dim: int) -> Tensor:
    """Turn gradients of sweep's output into those of its input, in place."""
    slices, decays = g.unbind(dim), a.unbind(dim)
    for i in range(len(slices) - 1, 0, -1):
        slices[i - 1].addcmul_(decays[i], slices[i])
    return g


def block_2dmamba(x, dt, A, B, C, D, dt_bias) -> Tensor:
    """Y of a block."""
    entry = Entry.of(x, dt, A, B, dt_bias)
    h = sweep(sweep(entry.driven(), entry.a, 2), entry.a, 1)
    return read_out(h, C, D, x)


def block_2dmamba_backward(dy, x, dt, A, B, C, D, dt_bias) -> tuple[Tensor, ...]:
    """Gradients of a block's arguments, in their order."""
    entry = Entry.of(x, dt, A, B, dt_bias)
    g = sweep(entry.driven(), entry.a, 2)
    h = sweep(g.clone(), entry.a, 1)
    dC, dD, dx_skip = read_out_backward(dy, h, D, x)
    grad = sweep_back(dy.unsqueeze(3) * C, entry.a, 1)  # of h before it decays, that is, of g
    decayed = torch.zeros_like(h)
    torch.mul(grad[:, 1:], h[:, :-1], out=decayed[:, 1:])
    sweep_back(grad, entry.a, 2)  # of delta B x
    decayed[:, :, 1:].addcmul_(grad[:, :, 1:], g[:, :, :-1])
    dx, ddt, dA, dB, dt_bias = entry.backward(grad, decayed.mul_(entry.a))
    return dx + dx_skip, ddt, dA, dB, dC, dD, dt_bias


# Mamba2D: a wavefront of anti-diagonals. Arrays of states have a border of one cell above and to
# the left, so that every cell has both neighbours.


def bordered(h: Tensor) -> Tensor:
    """H (B, H, W, N, C) with a zero row above and a zero column to the left."""
    out = h.new_zeros(h.shape[0], h.shape[1] + 1, h.shape[2] + 1, *h.shape[3:])
    out[:, 1:, 1:] = h
    return out


def cells_and_neighbours(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A bordered array's cells, and each cell's top and left neighbour: three views."""
    return h[:, 1:, 1:], h[:, :-1, 1:], h[:, 1:, :-1]


def diagonals(grid: Tensor) -> Iterator[Tensor]:
    """The anti-diagonals of a grid (B, H, W, ...), each from its top right down: views (B, n, ...).

    From one cell of a diagonal to the next is a row more and a column less, a constant stride.
    """
    batch, H, W, *rest = grid.shape
    per_sample, down, right, *strides = grid.stride()
    for d in range(H + W - 1):
        first = max(0, d - W + 1)
        start = grid.storage_offset() + first * down + (d - first) * right
        size = (batch, min(d, H - 1) - first + 1, *rest)
        yield grid.as_strided(size, (per_sample, max(0, down - right), *strides), start)


def wavefront(h: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Add the decayed neighbours to every cell of a bordered h, in order and in place."""
    grids = (*cells_and_neighbours(h), top, left)
    for cell, above, before, a_top, a_left in zip(*map(diagonals, grids), strict=True):
        cell.addcmul_(a_top, above).addcmul_(a_left, before)
    return h


def wavefront_back(g: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Turn gradients of wavefront's output into its input's, in place; not for the border."""
    grids = (*cells_and_neighbours(g), top, left)
    steps = list(zip(*map(diagonals, grids), strict=True))
    for cell, above, before, a_top, a_left in reversed(steps):
        above.addcmul_(a_top, cell)
        before.addcmul_(a_left, cell)
    return g


def mix(top: Tensor, left: Tensor) -> Tensor:
    """The mean of both entries; left alone in row 0, top alone in the rest of column 0."""
    out = (top + left).div_(2)
    out[:, 0] = left[:, 0]
    out[:, 1:, 0] = top[:, 1:, 0]
    return out


def unmix(g: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of mix's top and left."""
    top, left = g / 2, g / 2
    top[:, 0], left[:, 0] = 0, g[:, 0]
    top[:, 1:, 0], left[:, 1:, 0] = g[:, 1:, 0], 0
    return top, left


def states_mamba2d(top: Entry, left: Entry) -> tuple[Tensor, Tensor, Tensor]:
    """Bordered states, and the weighted decays from the top and from the left."""
    a_top, a_left = top.a, left.a
    a_top[:, :, 1:] /= 2  # in row 0 they decay the border's zeros
    a_left[:, 1:] /= 2  # and in column 0 these
    return wavefront(bordered(mix(top.driven(), left.driven())), a_top, a_left), a_top, a_left


def block_mamba2d(
    x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> Tensor:
    """Y of a block."""
    top = Entry.of(x, dt_top, A_top, B_top, dt_bias_top)
    left = Entry.of(x, dt_left, A_left, B_left, dt_bias_left)
    h, _, _ = states_mamba2d(top, left)
    return read_out(h[:, 1:, 1:], C, D, x)


def block_mamba2d_backward(
    dy, x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> tuple[Tensor, ...]:
    """Gradients of a block's arguments, in their order."""
    top = Entry.of(x, dt_top, A_top, B_top, dt_bias_top)
    left = Entry.of(x, dt_left, A_left, B_left, dt_bias_left)
    h, a_top, a_left = states_mamba2d(top, left)
    h, above, before = cells_and_neighbours(h)
    dC, dD, dx = read_out_backward(dy, h, D, x)
    g = wavefront_back(bordered(dy.unsqueeze(3) * C), a_top, a_left)[:, 1:, 1:]
    g_top, g_left = unmix(g)
    dx_top, *of_top = top.backward(g_top, a_top.mul_(above).mul_(g))
    dx_left, *of_left = left.backward(g_left, a_left.mul_(before).mul_(g))
    dt, A, B, dt_bias = zip(of_top, of_left, strict=True)
    return dx + dx_top + dx_left, *dt, *A, *B, dC, dD, *dt_bias


# The operators: B and C come as (B, H, W, N).


def scan_2dmamba(x, dt, A, B, C, D, dt_bias) -> Tensor:
    """Y, in the dtype of x."""
    arguments = (x, dt, A, B.unsqueeze(-1), C.unsqueeze(-1), D, dt_bias)
    return forward(block_2dmamba, A.shape[1], *arguments)


def scan_2dmamba_backward(dy, x, dt, A, B, C, D, dt_bias) -> list[Tensor]:
    """Gradients of the arguments, in their order."""
    arguments = (x, dt, A, B.unsqueeze(-1), C.unsqueeze(-1), D, dt_bias)
    grads = backward(block_2dmamba_backward, A.shape[1], dy, *arguments)
    return [g.squeeze(-1) if g.dim() == 5 else g for g in grads]


def scan_mamba2d(
    x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> Tensor:
    """Y, in the dtype of x."""
    B_top, B_left, C = (t.unsqueeze(-1) for t in (B_top, B_left, C))
    arguments = (x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left)
    return forward(block_mamba2d, A_top.shape[1], *arguments)


def scan_mamba2d_backward(
    dy, x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> list[Tensor]:
    """Gradients of the arguments, in their order."""
    B_top, B_left, C = (t.unsqueeze(-1) for t in (B_top, B_left, C))
    arguments = (x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left)
    grads = backward(block_mamba2d_backward, A_top.shape[1], dy, *arguments)
    return [g.squeeze(-1) if g.dim() == 5 else g for g in grads]
