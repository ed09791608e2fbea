"""A pyramid for detectors whose backbone gives maps of one resolution."""

from __future__ import annotations

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from torch import Tensor, nn


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """ViTDet's simple feature pyramid (arXiv 2203.16527): four scales of the last map alone.

    Maps, the last of which is (B, in_channels, H, W) → maps (B, out_channels, ...) of 4, 2, 1 and
    1/2 times its resolution, then coarser ones by subsampling.

    Args:
        in_channels: Channels of the backbone's map.
        out_channels: Channels of every output.
        num_outs: Number of outputs.
        start: How many of the finest scales are left out: RetinaNet's pyramid starts at 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int = 256, num_outs: int = 5, start: int = 0
    ):
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        self.extra = num_outs - 4 + start
        scales = (
            nn.Sequential(
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                LayerNorm2d(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
            ),
            nn.ConvTranspose2d(in_channels, half, 2, stride=2),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        widths = (quarter, half, in_channels, in_channels)
        self.scales = nn.ModuleList(scales[start:])
        self.outputs = nn.ModuleList(_output(width, out_channels) for width in widths[start:])

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Pyramid of the last map."""
        found = [out(scale(maps[-1])) for scale, out in zip(self.scales, self.outputs, strict=True)]
        for _ in range(self.extra):
            found.append(F.max_pool2d(found[-1], 1, stride=2))
        return tuple(found)


def _output(width: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
