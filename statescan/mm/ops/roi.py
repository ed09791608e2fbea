"""Pooling inside regions of interest: rois (R, 5), image x1 y1 x2 y2; maps (B, C, H, W)."""

import torch
import torchvision
from torch import Tensor

from .differentiate import full_precision, gradients

NOWHERE = -2.0  # a coordinate outside every map: `_interpolate` gives 0 there


def _interpolate(input: Tensor, image: Tensor, channel: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear values of `input` at points; the four index tensors broadcast to the result.

    A point up to one pixel outside takes the border's value, any further 0.
    """
    height, width = input.shape[2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().long(), x.detach().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    y, x = y - top, x - left
    upper = input[image, channel, top, left] * (1 - x) + input[image, channel, top, right] * x
    lower = input[image, channel, bottom, left] * (1 - x) + input[image, channel, bottom, right] * x
    return (upper * (1 - y) + lower * y) * inside


def _channels(input: Tensor, dimensions: int) -> Tensor:
    """Channel numbers along the first of so many axes."""
    numbers = torch.arange(input.shape[1], device=input.device)
    return numbers.reshape(-1, *[1] * (dimensions - 1))


def _samples(start: Tensor, length: Tensor, bins: int, sampling_ratio: int) -> Tensor:
    """Coordinates (bins, samples) that spread evenly over `length` from `start`, both scalars."""
    size = length / bins
    count = sampling_ratio if sampling_ratio > 0 else max(int(size.ceil()), 0)
    bin_number, sample = (
        torch.arange(n, dtype=start.dtype, device=start.device) for n in (bins, count)
    )
    return start + bin_number[:, None] * size + (sample + 0.5) * size / max(count, 1)


def _grid(
    roi: Tensor, bins: tuple[int, int], scale: float, offset: float, ratio: int, least: float
):
    """Sample rows (PH, 1, n, 1) and columns (1, PW, 1, m) of one region."""
    x1, y1, x2, y2 = roi[1:] * scale - offset
    rows = _samples(y1, (y2 - y1).clamp(min=least), bins[0], ratio)
    columns = _samples(x1, (x2 - x1).clamp(min=least), bins[1], ratio)
    return rows[:, None, :, None], columns[None, :, None, :]


def _align_max(
    input: Tensor, roi: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The greatest sample of each bin and where it lay, (C, PH, PW) each; 0 and nowhere if none."""
    values = _interpolate(input, roi[0].long(), _channels(input, 5), rows, columns).flatten(3)
    rows, columns = (x.flatten(2) for x in torch.broadcast_tensors(rows, columns))
    if not values.shape[-1]:
        empty = values.new_zeros(values.shape[:-1])
        return empty, empty + NOWHERE, empty + NOWHERE
    best, at = values.max(-1)
    places = (x.expand_as(values).gather(-1, at[..., None])[..., 0] for x in (rows, columns))
    return best, *places


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills `output` (R, C, aligned_height, aligned_width); with `pool_mode` 0, max, argmax too."""
    input, rois = full_precision(input), full_precision(rois)
    bins = (aligned_height, aligned_width)
    if pool_mode == 1:
        output.copy_(
            _align_mean(rois.to(input), bins, spatial_scale, sampling_ratio, aligned)(input)
        )
        return
    offset, least = (0.5, 0.0) if aligned else (0.0, 1.0)
    for index, roi in enumerate(rois):
        rows, columns = _grid(roi, bins, spatial_scale, offset, sampling_ratio, least)
        found = _align_max(input, roi, rows, columns)
        output[index], argmax_y[index], argmax_x[index] = found


def _align_mean(rois: Tensor, bins: tuple[int, int], scale: float, ratio: int, aligned: bool):
    def run(input: Tensor) -> Tensor:
        return torchvision.ops.roi_align(input, rois, bins, scale, ratio, aligned)

    return run


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills `grad_input`; both pools are linear in the map once the places are known."""
    bins = (aligned_height, aligned_width)
    if pool_mode == 1:
        rois = rois.to(full_precision(grad_output))
        run = _align_mean(rois, bins, spatial_scale, sampling_ratio, aligned)
    else:
        image, y, x = _image(rois), full_precision(argmax_y), full_precision(argmax_x)

        def run(input: Tensor) -> Tensor:
            return _interpolate(input, image, _channels(input, 3), y, x)

    grad_input.copy_(gradients(run, (grad_input,), grad_output)[0])


def _image(rois: Tensor) -> Tensor:
    """Each region's image number: (R, 1, 1, 1)."""
    return rois[:, 0].long()[:, None, None, None]


def _edges(rois: Tensor, first: int, bins: int, scale: float, size: int) -> list[list[list[int]]]:
    """Start and end of each region's bins along one axis, as (R, bins, 2) whole numbers."""
    start = rois[:, first, None] * scale
    length = (rois[:, first + 2, None] + 1) * scale - start
    steps = torch.arange(bins + 1, device=rois.device) * (length / bins) + start
    edges = torch.stack([steps[:, :-1].floor(), steps[:, 1:].ceil()], -1)
    # Every bin of a region without width or height is empty.
    return (edges.clamp(0, size) * (length > 0)[..., None]).long().tolist()


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills `output` and `argmax` (R, C, pooled_height, pooled_width); 0 and -1 of empty bins.

    torchvision's roi_pool rounds the corners, mmcv's bins reach from floor to ceil of the exact
    ones: hence by torch.
    """
    height, width = input.shape[2:]
    rois = full_precision(rois)
    rows = _edges(rois, 2, pooled_height, spatial_scale, height)
    columns = _edges(rois, 1, pooled_width, spatial_scale, width)
    for index, image in enumerate(rois[:, 0].long().tolist()):
        for h, (top, bottom) in enumerate(rows[index]):
            for w, (left, right) in enumerate(columns[index]):
                if top >= bottom or left >= right:
                    output[index, :, h, w], argmax[index, :, h, w] = 0, -1
                    continue
                best, at = input[image, :, top:bottom, left:right].flatten(1).max(1)
                output[index, :, h, w] = best
                span = right - left
                argmax[index, :, h, w] = (top + at // span) * width + left + at % span


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills `grad_input`: each bin's gradient goes to its greatest pixel."""
    image, pixel = _image(rois), argmax.long()

    def run(input: Tensor) -> Tensor:
        picked = input.flatten(2)[image, _channels(input, 3), pixel.clamp(min=0)]
        return picked * (pixel >= 0)

    grad_input.copy_(gradients(run, (grad_input,), grad_output)[0])


def _deform_pool(rois: Tensor, bins: tuple[int, int], scale: float, ratio: int, gamma: float):
    """Mean of each bin's samples; `offset` (R, 2, PH, PW), x then y, moves them by region size."""

    def pool_one(input: Tensor, roi: Tensor, shift: Tensor) -> Tensor:
        rows, columns = _grid(roi, bins, scale, 0.5, ratio, least=-torch.inf)
        move = shift * (gamma * scale * (roi[3:] - roi[1:3]))[:, None, None]
        rows, columns = rows + move[1, ..., None, None], columns + move[0, ..., None, None]
        values = _interpolate(input, roi[0].long(), _channels(input, 5), rows, columns)
        return values.flatten(3).sum(-1) / max(values.shape[3] * values.shape[4], 1)

    def run(input: Tensor, offset: Tensor) -> Tensor:
        shifts = offset if offset.numel() else offset.new_zeros(len(rois), 2, *bins)
        none = input[:0, :, :1, :1].expand(-1, -1, *bins)
        pooled = [pool_one(input, *pair)[None] for pair in zip(rois, shifts, strict=True)]
        return torch.cat([none, *pooled])

    return run


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fills `output` (R, C, pooled_height, pooled_width); `offset` may be empty."""
    bins = (pooled_height, pooled_width)
    run = _deform_pool(full_precision(rois), bins, spatial_scale, sampling_ratio, gamma)
    output.copy_(run(full_precision(input), full_precision(offset)))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fills `grad_input`, and `grad_offset` where there are offsets."""
    bins = (pooled_height, pooled_width)
    run = _deform_pool(full_precision(rois), bins, spatial_scale, sampling_ratio, gamma)
    grads = gradients(run, (input, offset), grad_output)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])
