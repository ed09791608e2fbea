"""`dwconv_silu`: checks its arguments and runs one kernel on a GPU, torch's operators elsewhere."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _triton
from .._arguments import check_dims, check_tensors
from .._registration import join

SIZES = (1, 3, 5, 7)  # of the convolution, that the kernels have registers for


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    return _triton.describe(device, "torch's own operators")


def is_fused(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether one kernel does the work of `dwconv_silu` for tensors like these."""
    return weight.shape[-1] in SIZES and _triton.serves(x, weight, bias)


@torch.library.custom_op("statescan::dwconv_silu", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from . import gpu

    return gpu.forward(x, weight, bias)


@_forward.register_fake
def _(x, weight, bias):
    return x.new_empty(x.shape)


@torch.library.custom_op("statescan::dwconv_silu_backward", mutates_args=())
def _backward(dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    from . import gpu

    return gpu.backward(dout, x, weight, bias)


join(_forward, _backward, differentiable=3)


def _convolution(x: Sequence[int], weight: Sequence[int]) -> int:
    """A multiplication and an addition for each tap and number, of tensors of these shapes."""
    return 2 * math.prod(x) * math.prod(weight[2:])


@register_flop_formula(torch.ops.statescan.dwconv_silu)
def _flops(x, weight, *args, **kwargs) -> int:
    """What torch counts for the same convolution."""
    return _convolution(x, weight)


@register_flop_formula(torch.ops.statescan.dwconv_silu_backward)
def _flops_backward(dout, x, weight, *args, **kwargs) -> int:
    """The convolution again, and as many for each of the gradients of x and weight."""
    return 3 * _convolution(x, weight)


def dwconv_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution of a channels-last map, zero outside the map, then SiLU.

    On a GPU one kernel reads x and writes the result, with sums in float32 and the same bits in
    every run. The backward pass convolves again instead of keeping what came before SiLU.

    Args:
        x: (B, H, W, C), often a part of wider rows.
        weight: (C, 1, k, k), k odd.
        bias: (C,).

    Returns:
        (B, H, W, C) in the dtype of x.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.

    Source: the convolution of VMamba's SS2D, arXiv 2401.10166, figure 3.
    """
    _check(x, weight, bias)
    return _forward(x, weight, bias) if is_fused(x, weight, bias) else composed(x, weight, bias)


def composed(x, weight, bias) -> Tensor:
    """As the operator, of torch's own."""
    weight, bias = (None if t is None else t.to(x.dtype) for t in (weight, bias))
    with torch.autocast(x.device.type, enabled=False):
        maps, k = x.permute(0, 3, 1, 2), weight.shape[-1]
        pre = F.conv2d(maps, weight, bias, padding=k // 2, groups=len(weight))
        return F.silu(pre).permute(0, 2, 3, 1)


def _check(x, weight, bias) -> None:
    """Refuse arguments that do not fit together, naming the first that does not."""
    check_dims(x=(x, (4,)), weight=(weight, (4,)))
    channels, k = x.shape[-1], weight.shape[-1]
    if 0 in x.shape[1:]:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected at least 1x1 and a channel")
    if len(weight) != channels:
        raise ValueError(f"x has {channels} channels, weight was made for {len(weight)}")
    if k % 2 == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected an odd size")
    check_tensors(
        x=(x, tuple(x.shape)), weight=(weight, (channels, 1, k, k)), bias=(bias, (channels,))
    )
