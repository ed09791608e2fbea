"""timm's image transforms, plus the one symmetry that they lack."""

from __future__ import annotations

import timm.data
import torch
from torch import Tensor, nn


class RandomQuarterTurn(nn.Module):
    """Turns a square (C, H, H) image by 0, 90, 180 or 270 degrees, each as likely."""

    def forward(self, image: Tensor) -> Tensor:
        """Return ``image``, turned."""
        return torch.rot90(image, int(torch.randint(4, ())), dims=(-2, -1))


def build_transform(quarter_turns: bool = False, **kwargs):
    """:func:`timm.data.create_transform`, from a PIL image to a (C, H, W) tensor.

    Args:
        quarter_turns: Also turn the image at random, for subjects without an up or a left.
        **kwargs: Arguments of :func:`timm.data.create_transform`.
    """
    transform = timm.data.create_transform(**kwargs)
    if quarter_turns:
        transform.transforms.append(RandomQuarterTurn())
    return transform
