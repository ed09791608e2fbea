"""ViM2, the vision model of MambaMixer: selective scans over tokens and over channels.

Paper: Behrouz et al., MambaMixer: Efficient Selective State Space Models with Dual Token and
Channel Selection, 2024, arXiv 2403.19888.
There is no official code and there are no weights: https://github.com/MambaMixer/M2 has a README.

What the paper leaves open, and what was chosen:

- Channel mixer. The paper transposes the map, so that channels are the steps and positions the
  features; the parameters would then fit one image size only. Here those that belong to a position
  lie on a 7x7 grid and are resampled to the map: what the scan applies at a position is
  interpolated, and a matrix that reads all positions reads their means around the grid's points.
  On a 7x7 map, the last stage at 224 pixels, this is the paper's scan itself. For the same reason
  the linear maps over positions, before the scan, for its gates and after it, are depthwise 3x3
  convolutions.
- Order. Two token mixers, then one channel mixer, as in the paper's table; its figure pairs them.
- Averaging. y⁽⁰⁾ is counted once, not among tokens and channels both, and the stage's output is a
  weighted sum as well. All weights start at 1: a fresh network is the plain residual stack.
- σ is SiLU; a LayerNorm stands before every mixer and before its last linear map, as in VMamba.
- States. One a channel in the token mixer, as in VMamba's second version; four a position in the
  channel mixer, where they are all that channels tell each other, and which scans only twice.
- Widths. From T to S the published counts grow by 23 M for 12 token and 6 channel mixers of 384
  channels: 26 C² for two and one. A gate of its own for each of four scans and an inner width of
  2 C make 13 C² a token mixer, and the channel mixers nearly nothing. T's 20 M then leave too
  little for such mixers in a fourth stage of 768 channels. With an inner width of C/2 there, the
  counts are 19.2, 42.6 and 75.1 M (published 20, 43 and 74 M), with the usual Mask R-CNN 39 and
  62 M (39, 62) and with UPerNet 51 and 74 M (51, 75).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..layers import PatchMerging, PatchStem
from ..scans import CausalS6, Route, Scan2d
from ..scans.steps import along_routes, causal_scan
from ._build import build, imagenet_cfg
from ._pyramid import Pyramid, Stage

__all__ = ["ChannelMixer", "ViM2"]

TOKEN_MIXERS = 2  # before each channel mixer


def interpolation(new: int, old: int, device: torch.device) -> Tensor:
    """Matrix (new, old) of linear interpolation, or where that is coarser of triangular means."""
    centre = (torch.arange(new, device=device) + 0.5) * (old / new) - 0.5
    distance = (centre[:, None] - torch.arange(old, device=device)).abs()
    distance = torch.minimum(distance, distance * (new / old))  # in points of the coarser grid
    weight = (1 - distance).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


def resampling(new: tuple[int, int], old: tuple[int, int], device: torch.device) -> Tensor:
    """Interpolation of a grid's rows and columns, (H, W) to (H', W'): a matrix (H'·W', H·W)."""
    rows, columns = (interpolation(n, o, device) for n, o in zip(new, old, strict=True))
    product = rows[:, None, :, None] * columns[:, None]  # torch.kron would fix H and W in an export
    return product.flatten(2).flatten(0, 1)


class ChannelMixer(nn.Module):
    """Gated selective scans over the channels, there and back: (B, H, W, C) → (B, H, W, C).

    Any H and W: the parameters of positions lie on a grid and are resampled to the map.

    Args:
        dim: channels C.
        d_state: states a position, N.
        grid: side of the grid.

    Source: selective channel mixer of MambaMixer, arXiv 2403.19888, for maps of one size.
    """

    def __init__(self, dim: int, *, d_state: int = 4, grid: int = 7):
        super().__init__()
        self.grid = grid
        self.in_conv = nn.Conv2d(dim, 3 * dim, 3, padding=1, groups=dim)  # input, two gates
        self.s6 = CausalS6(
            grid**2,
            routes="bidirectional",
            d_state=d_state,
            dt_rank=math.ceil(grid**2 / 16),
            merge="sum",
        )
        self.norm = nn.LayerNorm(dim)
        self.out_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of x (B, H, W, C)."""
        _, H, W, C = x.shape
        x = self.in_conv(x.permute(0, 3, 1, 2)).flatten(2).unflatten(1, (C, 3))
        y = self.scan(x[:, :, 0], F.silu(x[:, :, 1:]), H, W)
        y = self.norm(y.mT).unflatten(1, (H, W))
        return self.out_conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def scan(self, x: Tensor, gate: Tensor, H: int, W: int) -> Tensor:
        """Scan channels x (B, C, H·W), each scan with its gate (B, C, 2, H·W)."""
        scan = partial(causal_scan, **self.parameters_for(H, W))
        return (along_routes(x, self.s6.routes, 1, x.shape[1], scan) * gate).sum(2)

    def parameters_for(self, H: int, W: int) -> dict[str, Tensor]:
        """The scan's parameters with H·W positions where they have the grid's."""
        grid, device = (self.grid, self.grid), self.s6.D.device
        to_map, to_grid = resampling((H, W), grid, device), resampling(grid, (H, W), device)
        with without_autocast(device):
            return {
                name: resample(p, 2, to_grid.mT)
                if name == "x_proj_weight"
                else resample(p, 1, to_map)
                for name, p in self.s6.named_parameters()
            }


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast off; the meta device has none."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def resample(parameter: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """Multiply a dimension of a parameter by a matrix (new, old)."""
    return F.linear(parameter.movedim(dim, -1), matrix.to(parameter)).movedim(-1, dim).contiguous()


class WeightedSum(nn.Module):
    """Sum of earlier outputs, each times a learnable number that starts at 1.

    The paper's α, β (of a token mixer's input) or θ, γ (of a channel mixer's): the weights of
    earlier token and channel mixers, in the order in which they run.
    """

    def __init__(self, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count))

    def forward(self, *outputs: Tensor) -> Tensor:
        """Weigh and add up outputs of one shape."""
        total, *rest = (w * y for w, y in zip(self.weight.unbind(), outputs, strict=True))
        for part in rest:
            total = total + part
        return total


class MixerBlock(nn.Module):
    """Weighted sum of a stage's earlier outputs, norm, and a mixer; without a residual.

    Maps (B, H, W, C), as many as `index` says → what the mixer adds, (B, H, W, C).
    """

    def __init__(self, dim: int, mixer: nn.Module, index: int, drop_path: float):
        super().__init__()
        self.average = WeightedSum(index)
        self.norm = nn.LayerNorm(dim)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, *outputs: Tensor) -> Tensor:
        """Mix the sum of the stage's earlier outputs."""
        return self.drop_path(self.mixer(self.norm(self.average(*outputs))))


class AveragingStage(Stage):
    """A stage whose blocks see all earlier outputs, the last of which is their weighted sum."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage on x (B, H, W, C)."""
        outputs = [self.downsample(x)]
        for block in self.blocks:
            outputs.append(self.run(block, *outputs))
        return outputs[-1]


class ViM2(Pyramid):
    """ViM2 image model, any image size.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        depths: channel mixers a stage; two token mixers come before each.
        dims: channels a stage.
        expands: inner width of the token mixers as a multiple of the channels, a stage.
        d_state: states a channel in the token mixers.
        channel_states: states a position in the channel mixers.
        grid: side of the grid that holds the channel mixers' parameters.
        routes: scan routes of the token mixers, as in `Scan2d`.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last mixer, rising linearly from 0.
        out_norms: stages whose feature map gets a LayerNorm of its own; True for all.
        device: where the parameters are made.
        dtype: type of the parameters.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (1, 1, 3, 1),
        dims: Sequence[int] = (96, 192, 384, 768),
        expands: Sequence[float] = (2.0, 2.0, 2.0, 0.5),
        d_state: int = 1,
        channel_states: int = 4,
        grid: int = 7,
        routes: str | Sequence[str | Route] = "cross",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        def mixer(stage: int, index: int) -> nn.Module:
            if index % (TOKEN_MIXERS + 1) == 0:
                return ChannelMixer(dims[stage], d_state=channel_states, grid=grid)
            scan = {"expand": expands[stage], "d_state": d_state, "routes": routes}
            return Scan2d(dims[stage], gate="route", conv_bias=True, **scan)

        def blocks(stage: int, rates: Sequence[float]) -> list[nn.Module]:
            numbered = enumerate(rates, start=1)
            mixers = [MixerBlock(dims[stage], mixer(stage, i), i, rate) for i, rate in numbered]
            return [*mixers, WeightedSum(1 + len(mixers))]

        counts = [(TOKEN_MIXERS + 1) * depth for depth in depths]
        rates = calculate_drop_path_rates(drop_path_rate, counts, stagewise=True)
        with torch.device(device or torch.get_default_device()):
            halve = [None, *(PatchMerging(a, b) for a, b in pairwise(dims))]
            super().__init__(
                PatchStem(in_chans, dims[0]),
                [AveragingStage(blocks(i, rates[i]), halve[i]) for i in range(len(dims))],
                dims,
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                drop_rate=drop_rate,
                out_norms=out_norms,
            )
            self.init_weights(None)
        self.to(dtype=dtype)


def _cfg(**kwargs) -> dict:
    return imagenet_cfg(
        first_conv="stem.conv",
        license="unstated",
        paper_ids="arXiv:2403.19888",
        paper_name="MambaMixer: Efficient Selective State Space Models with Dual Token and Channel"
        " Selection",
        origin_url="https://github.com/MambaMixer/M2",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "vim2_tiny.untrained": _cfg(),
        "vim2_small.untrained": _cfg(),
        "vim2_base.untrained": _cfg(),
        "test_vim2.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


@register_model
def vim2_tiny(pretrained: bool = False, **kwargs) -> ViM2:
    """ViM2-T: 19.2 M parameters, 20 M and 82.7 % top-1 as published."""
    return build(ViM2, "vim2_tiny", pretrained, **kwargs)


@register_model
def vim2_small(pretrained: bool = False, **kwargs) -> ViM2:
    """ViM2-S: 42.6 M parameters, 43 M and 83.7 % top-1 as published."""
    return build(ViM2, "vim2_small", pretrained, **{"depths": (1, 1, 9, 1), **kwargs})


@register_model
def vim2_base(pretrained: bool = False, **kwargs) -> ViM2:
    """ViM2-B: 75.1 M parameters, 74 M and 83.9 % top-1 as published."""
    model = {"depths": (1, 1, 9, 1), "dims": (128, 256, 512, 1024)}
    return build(ViM2, "vim2_base", pretrained, **{**model, **kwargs})


@register_model
def test_vim2(pretrained: bool = False, **kwargs) -> ViM2:
    """The smallest ViM2, for tests."""
    model = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    return build(ViM2, "test_vim2", pretrained, **{**model, **kwargs})
