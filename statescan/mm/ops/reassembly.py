"""Features gathered by predicted weights: deformable attention, CARAFE, PSANet's masks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .differentiate import full_precision, gradients


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    """value: (B, L, M, D); locations: (B, Q, M, levels, P, 2); weights without the 2."""
    batch, queries, heads, levels, points, _ = locations.shape
    sizes = shapes.tolist()
    maps = value.split([h * w for h, w in sizes], dim=1)
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # levels, B·M, Q, P, 2
    sampled = [
        F.grid_sample(
            level.permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w), grid, align_corners=False
        )
        for level, grid, (h, w) in zip(maps, grids, sizes, strict=True)
    ]
    shares = weights.permute(0, 2, 3, 1, 4).reshape(batch * heads, levels, 1, queries, points)
    output = (torch.stack(sampled, 1) * shares).sum((1, 4))  # B·M, D, Q
    return output.reshape(batch, -1, queries).transpose(1, 2)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """(B, Q, M·D) from `value` (B, L, M, D), M heads, at locations in 0..1, x then y."""
    tensors = (value, sampling_locations, attention_weights)
    result = _attend(*(full_precision(x) for x in tensors), value_spatial_shapes)
    return result.to(value.dtype).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fills the gradients of values, locations and weights."""

    def attend(*tensors):
        return _attend(*tensors, value_spatial_shapes)

    grads = gradients(attend, (value, sampling_locations, attention_weights), grad_output)
    filled = (grad_value, grad_sampling_loc, grad_attn_weight)
    for into, grad in zip(filled, grads, strict=True):
        into.copy_(grad)


def _carafe(kernel_size: int, group_size: int, scale_factor: int):
    """Each position of the finer map: its own weights times the coarse window around it."""

    def run(features: Tensor, masks: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        windows = F.unfold(features, kernel_size, padding=kernel_size // 2)
        windows = windows.reshape(batch, group_size, -1, kernel_size**2, height, 1, width, 1)
        shares = masks.reshape(batch, group_size, 1, -1, height, scale_factor, width, scale_factor)
        # Tap by tap: all of them at once would hold kernel_size² copies of the finer map.
        taps = zip(windows.unbind(3), shares.unbind(3), strict=True)
        output = sum(window * share for window, share in taps)
        return output.reshape(batch, channels, height * scale_factor, width * scale_factor)

    return run


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fills `output` (B, C, sH, sW); masks: (B, group_size·kernel_size², sH, sW)."""
    run = _carafe(kernel_size, group_size, scale_factor)
    output.copy_(run(full_precision(features), full_precision(masks)))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fills the gradients of features and masks."""
    run = _carafe(kernel_size, group_size, scale_factor)
    grads = gradients(run, (features, masks), top_grad)
    bottom_grad.copy_(grads[0])
    mask_grad.copy_(grads[1])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_forward`; `rfeatures` is what mmcv hands to the backward as features."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_backward`; the buffers stay unused."""
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )


def _spread(psa_type: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int):
    """Each position's window of weights laid over the whole map, 0 outside the window."""

    def run(input: Tensor) -> Tensor:
        batch, _, height, width = input.shape
        y, x = torch.meshgrid(
            *(torch.arange(n, device=input.device) for n in (height, width)), indexing="ij"
        )
        y, x = y.flatten(), x.flatten()
        row = y[:, None] - y + half_h_mask  # (to, from): which weight of `from` falls on `to`
        column = x[:, None] - x + half_w_mask
        inside = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
        index = torch.where(inside, row * w_mask + column, 0)
        spread = input.flatten(2).gather(1, index.expand(batch, -1, -1)) * inside
        spread = spread if psa_type == 0 else spread.transpose(1, 2)
        return spread.reshape(batch, height * width, height, width)

    return run


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fills `output` (B, HW, H, W) from `input` (B, h_mask·w_mask, H, W).

    `psa_type`: 0 collects (a position's map says where its weights come to lie along axis 1), 1
    distributes (the transpose).
    """
    output.copy_(_spread(psa_type, h_mask, w_mask, half_h_mask, half_w_mask)(input))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fills `grad_input`."""
    run = _spread(psa_type, h_mask, w_mask, half_h_mask, half_w_mask)
    grad_input.copy_(gradients(run, (grad_input,), grad_output)[0])
