"""Rotary position embedding of a grid over all channels, as in Vim and EVA-02."""

import torch
from torch import Tensor


def rotary_table(dim: int, H: int, W: int, trained: int) -> Tensor:
    """Sines, then cosines, of every position's angles: (1, H·W, 2·dim).

    The first half of the channels, in pairs, turns with the row, the second with the column. A
    row h counts as `h / H · trained`, so that a finer grid spans the same angles.

    Args:
        dim: channels, divisible by 4.
        H: rows.
        W: columns.
        trained: rows and columns of the grid that one unit of angle belongs to.

    Source: RoFormer, arXiv 2104.09864; in two dimensions EVA-02, arXiv 2303.11331.
    """
    if dim % 4:
        raise ValueError(f"dim is {dim}, expected a multiple of 4")
    half = dim // 2
    frequencies = 10000.0 ** -(torch.arange(0, half, 2) / half)
    h, w = (torch.arange(n)[:, None] / n * trained * frequencies for n in (H, W))
    angles = torch.cat(
        [h[:, None].expand(-1, W, -1), w[None].expand(H, -1, -1)], dim=-1
    ).repeat_interleave(2, dim=-1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(0, 1).unsqueeze(0)
