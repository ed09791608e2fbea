"""Depthwise convolution with SiLU on a GPU, by the kernels of `gpu_kernels.py`."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _triton
from . import gpu_kernels as kernels

PROGRAMS_A_PROCESSOR = 16  # that keep its memory busy; with fewer, strips are cut shorter
SHORTEST = 8  # columns of a strip: each reads k - 1 more than it writes


class Tile(NamedTuple):
    """Channels of a program, rows of its strip, and columns that are read together."""

    BLOCK: int
    ROWS: int
    STEPS: int


TILES = {1: Tile(64, 2, 2), 3: Tile(64, 4, 2), 5: Tile(64, 2, 1), 7: Tile(32, 2, 1)}


class Call:
    """How maps like x are shared out among programs."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None):
        self.batch, self.H, self.W, self.channels = x.shape
        self.size = weight.shape[-1]
        self.tile = TILES[self.size]
        self.blocks = -(-self.channels // self.tile.BLOCK)
        self.wanted = PROGRAMS_A_PROCESSOR * _triton.processors(x.device)
        groups = self.batch * -(-self.H // self.tile.ROWS)
        cuts = max(1, self.wanted // max(1, groups * self.blocks))
        self.width = max(SHORTEST, -(-self.W // cuts))
        self.strips = groups * -(-self.W // self.width)
        self.weight = weight.contiguous()
        self.bias = self.weight if bias is None else bias.contiguous()
        self.has_bias = bias is not None

    def sizes(self) -> tuple[int, ...]:
        """The integers that both kernels take after the strides, in their order."""
        return self.H, self.W, self.channels, self.width

    def options(self, **own: bool) -> dict[str, int | bool]:
        """A kernel's compile-time arguments."""
        return {"SIZE": self.size, "num_warps": 1, "num_stages": 1} | self.tile._asdict() | own

    def convolve(self, x: Tensor, out: Tensor, **own: bool) -> Tensor:
        """Run the forward kernel on a map x (B, H, W, C)."""
        _triton.launch(
            kernels.forward,
            (self.strips * self.blocks,),
            *(x, self.weight, self.bias, out, *x.stride()[:3], *self.sizes()),
            **self.options(**own),
        )
        return out


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution's SiLU, (B, H, W, C)."""
    x = _triton.with_unit_stride(x)
    call = Call(x, weight, bias)
    out = x.new_empty(x.shape)
    return call.convolve(x, out, HAS_BIAS=call.has_bias, ACT=True, FLIP=False)


def backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Gradients of x, weight, and bias if given."""
    dout, x = _triton.with_unit_stride(dout), _triton.with_unit_stride(x)
    call = Call(x, weight, bias)
    slots = min(call.strips, -(-call.wanted // call.blocks))
    taps = call.size**2
    dpre = x.new_empty(x.shape)
    parts = x.new_empty((slots, taps + 1, call.channels), dtype=torch.float32)
    _triton.launch(
        kernels.backward,
        (slots * call.blocks,),
        *(dout, x, call.weight, call.bias, dpre, parts),
        *(*dout.stride()[:3], *x.stride()[:3], *call.sizes(), call.strips),
        **call.options(HAS_BIAS=call.has_bias),
    )
    dx = call.convolve(dpre, x.new_empty(x.shape), HAS_BIAS=False, ACT=False, FLIP=True)
    dweight = parts[:, :taps].sum(0).T.reshape(weight.shape).to(weight.dtype).contiguous()
    return [dx, dweight] if bias is None else [dx, dweight, parts[:, taps].sum(0).to(bias.dtype)]
