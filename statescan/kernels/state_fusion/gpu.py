"""Sums of shifted maps on a GPU, by `gpu_kernels.py`; the interface is `streaming.py`'s."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _triton
from .._tables import table
from . import gpu_kernels as kernels

ROWS, COLUMNS = 8, 8  # of a tile: near positions read much the same
POSITIONS = 64  # at the border, which are packed
SUMMED = 16  # positions whose gradients of the weight are summed at once
TAPS = 5  # read together; a program's share of the weight's gradient
READERS = 4  # read together
PROGRAMS = 1024  # that sum the weight's gradient: as many as fill a large GPU, the same on all
PARTS = 8  # of the border: four corners and four edges


def block(channels: int) -> int:
    """Channels of a program."""
    return 64 if channels % 64 == 0 or channels > 256 else 32


def taps(x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """The weight (T, C) in float32, and the row and column offsets (T,)."""
    return weight.float().contiguous(), *table(tuple(map(tuple, offsets)), x).unbind()


def sums(x: Tensor, taps: tuple[Tensor, ...], back: bool) -> Tensor:
    """Sums of x at each tap; or gradients of x from those of the sums, but at the border."""
    batch, H, W, C = x.shape
    down, across = -(-H // ROWS), -(-W // COLUMNS)
    out = torch.empty_like(x)
    _triton.launch(
        kernels.tap_sum,
        (batch * down * across * -(-C // block(C)),),
        *(x, *taps, out, H, W, C, len(taps[0]), down, across),
        BACK=back,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        BLOCK=block(C),
        TOGETHER=TAPS,
    )
    return out


def forward(x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]]) -> Tensor:
    """Weighted sum of x (B, H, W, C) at each tap, the border replicated: (B, H, W, C)."""
    return sums(x.contiguous(), taps(x, weight, offsets), back=False)


def backward(
    dout: Tensor, x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight."""
    dout, x = dout.contiguous(), x.contiguous()
    all_taps = taps(x, weight, offsets)
    dx = sums(dout, all_taps, back=True)
    gather_border(dout, all_taps, dx)
    return dx.to(x.dtype), dweight(dout, x, all_taps).to(weight.dtype)


def gather_border(dout: Tensor, taps: tuple[Tensor, ...], dx: Tensor) -> None:
    """Fill in the gradients of x at the border."""
    batch, H, W, C = dout.shape
    longest = batch * max(H - 2, W - 2, 1)  # of its parts
    _triton.launch(
        kernels.border,
        (-(-longest // POSITIONS) * -(-C // block(C)), PARTS),
        *(dout, *taps, dx, batch, H, W, C, len(taps[0])),
        POSITIONS=POSITIONS,
        BLOCK=block(C),
        TOGETHER=READERS,
    )


def dweight(dout: Tensor, x: Tensor, taps: tuple[Tensor, ...]) -> Tensor:
    """Gradient of the weight (T, C)."""
    batch, H, W, C = x.shape
    T = len(taps[0])
    programs = -(-T // TAPS) * -(-C // block(C))  # for one slot
    tiles = batch * -(-H * W // SUMMED)
    share = -(-tiles // max(1, PROGRAMS // programs))
    slots = -(-tiles // max(1, share))
    sums = x.new_empty(slots, T, C, dtype=torch.float32)
    _triton.launch(
        kernels.tap_dweight,
        (slots * programs,),
        *(dout, x, *taps[1:], sums, batch, H, W, C, T, share),
        POSITIONS=SUMMED,
        BLOCK=block(C),
        TOGETHER=TAPS,
    )
    return sums.sum(0)
