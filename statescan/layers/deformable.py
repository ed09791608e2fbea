"""Deformable sampling of a 3x3 neighbourhood, as in DCNv4."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.linear import Linear

POINTS = 9  # a 3x3 neighbourhood, column by column


def deformable_sample(x: Tensor, offsets: Tensor, masks: Tensor) -> Tensor:
    """Weighted sums of displaced 3x3 neighbours, read bilinearly: (B, H, W, C) → (B, H, W, C).

        y[h, w, g] = Σ_ij masks[h, w, g, 3i+j] · x[h + j - 1 + dy, w + i - 1 + dx, g]

    (dx, dy) is offsets[h, w, g, 3i+j]; x is zero outside the map. All is computed in float32 at
    least, whatever the inputs' types; y has the type of x.

    Args:
        x: (B, H, W, C), in G groups of channels.
        offsets: (B, H, W, G, 9, 2), displacements (dx, dy) in pixels.
        masks: (B, H, W, G, 9), of any sign and sum.

    Source: DCNv4, arXiv 2401.06197, section 3.1, without softmax.
    """
    B, H, W, C = x.shape
    G = masks.shape[3]
    if offsets.shape != (B, H, W, G, POINTS, 2) or masks.shape != (B, H, W, G, POINTS) or C % G:
        raise ValueError(
            f"x, offsets and masks have shapes {tuple(x.shape)}, {tuple(offsets.shape)} and"
            f" {tuple(masks.shape)}, expected (B, H, W, C), (B, H, W, G, 9, 2) and (B, H, W, G, 9)"
            " with G a divisor of C"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    index, weights = _corners(offsets.to(dtype), masks.to(dtype))
    # One sum of 9·4 weighted rows a pixel and group, of which no copies are made. On one core 56x56
    # pixels of 160 channels in 5 groups take 23 ms, 108 with gradients; grid_sample 41 and 89, with
    # 9 copies of x and errors of 4e-5; torchvision's deform_conv2d 78 and 757.
    rows = x.to(dtype).reshape(-1, C // G)
    y = F.embedding_bag(index, rows, mode="sum", per_sample_weights=weights)
    return y.view(-1, C).unflatten(0, (B, H, W)).to(x.dtype)  # in steps that can be traced


def _corners(offsets: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """For each pixel and group, the rows of its points' 4 corners and their weights: (BHWG, 36)."""
    B, H, W, G = masks.shape[:4]
    b, h, w, g, point = (
        torch.arange(n, device=masks.device, dtype=torch.int32).view(-1, *[1] * trailing)
        for n, trailing in ((B, 4), (H, 3), (W, 2), (G, 1), (POINTS, 0))
    )
    dx, dy = offsets.unbind(-1)
    row, row_weight = _ends(h + point % 3 - 1 + dy, H)
    column, column_weight = _ends(w + point // 3 - 1 + dx, W)
    pixel = (b * H)[..., None] + row  # (B, H, W, G, 9, 2)
    index = (pixel[..., None] * W + column[..., None, :]) * G + g[..., None, None]
    weights = (masks[..., None] * row_weight)[..., None] * column_weight[..., None, :]
    return index.flatten(0, 3).flatten(1), weights.flatten(0, 3).flatten(1)


def _ends(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The pixels on either side of a position on an axis, and their weights: (..., 2) each."""
    low = position.floor()
    share = position - low
    low = low.int()  # of NaN and of what is too large any number, which is clamped
    pixel = torch.stack([low, low + 1], dim=-1)
    weight = torch.stack([1 - share, share], dim=-1)
    inside = (pixel >= 0) & (pixel < size)
    return pixel.clamp(0, size - 1), torch.where(inside, weight, 0)


class DeformableSampling(nn.Module):
    """Deformable sampling whose offsets and masks are linear in its input.

    (B, H, W, C) → (B, H, W, C), for any H and W. It starts near the mean of the 3x3 neighbours.

    Args:
        dim: channels C.
        groups: groups of channels with offsets and masks of their own, a divisor of C.
        depthwise: compute offsets and masks from a 3x3 depthwise convolution of the input.

    Source: DCNv4, arXiv 2401.06197, without its projections of input and output.
    """

    def __init__(self, dim: int, groups: int, *, depthwise: bool = False):
        super().__init__()
        if dim % groups:
            raise ValueError(f"groups is {groups}, which does not divide the {dim} channels")
        self.groups = groups
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if depthwise else None
        width = 3 * POINTS * groups
        self.offset_mask = Linear(dim, -(-width // 8) * 8)  # the authors' multiple of 8
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small weights, so that everything learns from the first step; masks around 1/9."""
        nn.init.trunc_normal_(self.offset_mask.weight, std=0.02)
        bias = torch.cat([torch.zeros(2 * POINTS), torch.full((POINTS,), 1 / POINTS)])
        self.offset_mask.bias.zero_()
        self.offset_mask.bias[: 3 * POINTS * self.groups] = bias.repeat(self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Sample x (B, H, W, C)."""
        source = x
        if self.conv is not None:
            source = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        used = self.offset_mask(source)[..., : 3 * POINTS * self.groups]
        offsets, masks = used.unflatten(-1, (self.groups, -1)).split([2 * POINTS, POINTS], dim=-1)
        return deformable_sample(x, offsets.unflatten(-1, (POINTS, 2)), masks)
