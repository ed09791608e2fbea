"""Deformable convolution (v1, and v2 with a mask) and convolution at chosen positions.

torchvision's operator reads `group` and `deformable_group` off the shapes. Buffers that mmcv's
kernels need (columns, ones, im2col_step) stay unused.
"""

import torch.nn.functional as F
import torchvision
from torch import Tensor

from .differentiate import full_precision, gradients


def _deform_conv(stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]):
    """The convolution as a function of the tensors that have gradients; sizes are y then x."""
    window = dict(stride=stride, padding=padding, dilation=dilation)

    def run(input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
        return torchvision.ops.deform_conv2d(input, offset, weight, mask=mask, **window)

    return run


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fills `output` (B, O, H', W'); offset: (B, 2·kH·kW·deformable_group, H', W'), y then x."""
    run = _deform_conv((dH, dW), (padH, padW), (dilationH, dilationW))
    tensors = [full_precision(x) for x in (input, offset, weight)]
    output.copy_(run(*tensors))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fills `gradInput` and `gradOffset`."""
    run = _deform_conv((dH, dW), (padH, padW), (dilationH, dilationW))
    grads = gradients(run, (input, offset, weight), gradOutput)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds `scale` times the weight's gradient to `gradWeight`, which knows the weight's shape."""
    run = _deform_conv((dH, dW), (padH, padW), (dilationH, dilationW))
    x, offset = full_precision(input), full_precision(offset)
    # Linear in the weight: its gradient is the same at any value.
    (grad,) = gradients(lambda weight: run(x, offset, weight), (gradWeight * 0,), gradOutput)
    gradWeight.add_(grad, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fills `output` (B, O, H', W'); mask: (B, kernel_h·kernel_w·deformable_group, H', W')."""
    run = _deform_conv((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    tensors = [full_precision(x) for x in (input, offset, weight, mask)]
    result = run(*tensors)
    output.copy_(result + full_precision(bias)[:, None, None] if with_bias else result)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fills the five gradients, `grad_bias` only where `with_bias`."""
    run = _deform_conv((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    inputs = (input, offset, weight, mask)
    grads = gradients(run, inputs, grad_output)
    filled = (grad_input, grad_offset, grad_weight, grad_mask)
    for into, grad in zip(filled, grads, strict=True):
        into.copy_(grad)
    if with_bias:
        grad_bias.copy_(full_precision(grad_output).sum((0, 2, 3)))


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fills `col` (C·kernel_h·kernel_w, P): the windows of `im` (1, C, H, W) at P positions."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    windows = padded.unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    col.copy_(windows[:, mask_h_idx, mask_w_idx].permute(0, 2, 3, 1).flatten(0, 2))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Writes `col` (C, P) into `im` (1, C, H, W) at P positions; the others stay."""
    im[0, :, mask_h_idx, mask_w_idx] = col
