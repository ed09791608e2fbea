"""Merging, layer norm and gate on a GPU, by the kernels of `gpu_kernels.py`."""

import torch
from torch import Tensor

from .. import _triton
from . import gpu_kernels as kernels

TILE = 512  # numbers of each array that a warp holds
WARPS_A_PROCESSOR = 16  # in the backward pass, whose programs take tile after tile


def _tile(channels: int) -> dict[str, int]:
    """Channels and positions of a tile, powers of two, and the warps that hold it."""
    block = 1 << (channels - 1).bit_length()
    rows, warps = max(1, TILE // block), max(1, block // TILE)
    return {"BLOCK": block, "ROWS": rows, "num_warps": warps, "num_stages": 1}


def _options(y: Tensor, bias: Tensor | None, gate: Tensor | None) -> dict[str, int | bool]:
    """The kernels' compile-time arguments."""
    K = y.shape[2] if y.dim() == 4 else 1
    given = {"HAS_BIAS": bias is not None, "GATED": gate is not None}
    return {"K": K} | given | _tile(y.shape[-1])


def _inputs(
    y: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None
) -> tuple[Tensor, ...]:
    """The arrays as kernels read them; what is not given is never read, others stand in for it."""
    y, weight = _triton.with_unit_stride(y), weight.contiguous()
    bias = weight if bias is None else bias.contiguous()
    return y, weight, bias, y if gate is None else _triton.with_unit_stride(gate)


def _strides(y: Tensor, gate: Tensor) -> tuple[int, ...]:
    """Of y from sample to sample, position to position, route to route; of the gate likewise."""
    return *y.stride()[:2], y.stride(2) if y.dim() == 4 else 0, *gate.stride()[:2]


def forward(
    y: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, eps: float, save: bool
) -> tuple[Tensor, Tensor]:
    """The result (B, L, C), and with `save` the sum over the routes, (B, L, C), else nothing."""
    batch, length, channels = y.shape[0], y.shape[1], y.shape[-1]
    out = y.new_empty(batch, length, channels)
    merged = y.new_empty(out.shape if save else 0)
    options = _options(y, bias, gate)
    y, weight, bias, gate = _inputs(y, weight, bias, gate)
    _triton.launch(
        kernels.forward,
        (batch * -(-length // options["ROWS"]),),
        *(y, weight, bias, gate, out, merged, *_strides(y, gate), length, channels, eps),
        SAVE=save,
        **options,
    )
    return out, merged


def backward(
    dout: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, eps: float
) -> list[Tensor]:
    """Gradients of the sum over the routes, (B, L, C), weight, and bias and gate if given.

    y may be that sum itself.
    """
    batch, length, channels = dout.shape
    options = _options(y, bias, gate)
    most = _triton.processors(y.device) * max(1, WARPS_A_PROCESSOR // options["num_warps"])
    programs = min(most, batch * -(-length // options["ROWS"]))
    ds, dgate = y.new_empty(dout.shape), None if gate is None else gate.new_empty(gate.shape)
    dweight, dbias = dout.new_empty((2, programs, channels), dtype=torch.float32)
    dout, arrays = _triton.with_unit_stride(dout), _inputs(y, weight, bias, gate)
    _triton.launch(
        kernels.backward,
        (programs,),
        *(dout, *arrays, ds, ds if dgate is None else dgate, dweight, dbias),
        *(*dout.stride()[:2], *_strides(arrays[0], arrays[-1]), batch, length, channels, eps),
        **options,
    )
    dweight = dweight.sum(0).to(weight.dtype)
    dbias = None if bias is None else dbias.sum(0).to(bias.dtype)
    return [g for g in (ds, dweight, dbias, dgate) if g is not None]
