"""Gradients of stand-ins, which mmcv asks for by functions of their own."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 where it is a half type: torchvision's CPU kernels know few of them."""
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """d/dinputs of `function(*inputs)`, a tensor shaped like `grad_output`, in full precision."""
    with torch.enable_grad():
        leaves = [full_precision(x.detach()).requires_grad_() for x in inputs]
        output = function(*leaves)
    grad_output = full_precision(grad_output)
    return torch.autograd.grad(output, leaves, grad_output, materialize_grads=True)
