"""HRNet's parts: branches of different resolution side by side, which exchange what they see.

Source: Wang et al., Deep High-Resolution Representation Learning for Visual Recognition,
arXiv 1908.07919; separable convolutions on the way down as in HRFormer, arXiv 2110.09408.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, calculate_drop_path_rates
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from ._pyramid import Stage

STEM_DIM = 64


class HRStem(nn.Module):
    """Two 3x3 convolutions of stride 2, then ResNet's bottlenecks.

    (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, 4·width).

    Args:
        in_chans: channels of the image.
        width: channels inside the bottlenecks.
        depth: number of bottlenecks.
    """

    def __init__(self, in_chans: int, width: int, depth: int):
        super().__init__()
        self.conv1 = ConvNormAct(in_chans, STEM_DIM, 3, stride=2)
        self.conv2 = ConvNormAct(STEM_DIM, STEM_DIM, 3, stride=2)
        dims = [STEM_DIM, *[4 * width] * depth]
        self.blocks = nn.Sequential(*(bottleneck(a, b) for a, b in pairwise(dims)))

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))
        return self.blocks(self.conv2(x)).permute(0, 2, 3, 1)


def bottleneck(dim: int, out_dim: int) -> Bottleneck:
    """ResNet's bottleneck on (B, C, H, W), with a 1x1 convolution as shortcut to another width."""
    shortcut = None
    if dim != out_dim:
        shortcut = nn.Sequential(nn.Conv2d(dim, out_dim, 1, bias=False), nn.BatchNorm2d(out_dim))
    return Bottleneck(dim, out_dim // Bottleneck.expansion, downsample=shortcut)


def enlarge(x: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """Bilinear x (B, C, H, W) at a whole factor, from there at the size where that differs."""
    H, W = x.shape[2:]
    x = F.interpolate(x, (H * factor, W * factor), mode="bilinear")
    # A comparison of sizes would bind a traced graph to them.
    if not torch.compiler.is_compiling() and x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear")


class Fusion(nn.Module):
    """The sum of all branches at the resolution and width of one, then ReLU.

    Coarser branches pass a 1x1 convolution and are enlarged; finer ones pass separable
    convolutions of stride 2.

    Args:
        dims: channels of the branches, finest first.
        branch: number of the branch to sum into.
    """

    def __init__(self, dims: Sequence[int], branch: int):
        super().__init__()
        self.branch = branch
        self.paths = nn.ModuleList(self._path(dims, source) for source in range(len(dims)))

    def _path(self, dims: Sequence[int], source: int) -> nn.Module:
        dim, out_dim, steps = dims[source], dims[self.branch], self.branch - source
        if steps == 0:
            return nn.Identity()
        if steps < 0:
            return ConvNormAct(dim, out_dim, 1, apply_act=False)
        last = _halve(dim, out_dim, apply_act=False)
        return nn.Sequential(*(_halve(dim, dim) for _ in range(steps - 1)), last)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps, one (B, H', W', C') a branch: (B, H, W, C)."""
        size, total = maps[self.branch].shape[1:3], 0
        for source, (path, x) in enumerate(zip(self.paths, maps, strict=True)):
            y = path(x.permute(0, 3, 1, 2))
            if source > self.branch:
                y = enlarge(y, 2 ** (source - self.branch), size)
            total = total + y
        return total.relu().permute(0, 2, 3, 1)


def _halve(dim: int, out_dim: int, **kwargs) -> nn.Module:
    """A separable 3x3 convolution of stride 2 on (B, C, H, W)."""
    return nn.Sequential(
        ConvNormAct(dim, dim, 3, stride=2, groups=dim, apply_act=False),
        ConvNormAct(dim, out_dim, 1, **kwargs),
    )


class HRModule(nn.Module):
    """Blocks on every branch by itself, then a fusion for every branch.

    Args:
        dims: channels of the branches.
        block: makes a block from its channels and its drop path rate.
        rates: drop path rates of a branch's blocks.
    """

    def __init__(
        self,
        dims: Sequence[int],
        block: Callable[[int, float], nn.Module],
        rates: Sequence[float],
    ):
        super().__init__()
        self.branches = nn.ModuleList(Stage([block(dim, rate) for rate in rates]) for dim in dims)
        self.fuse = nn.ModuleList(Fusion(dims, i) for i in range(len(dims)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix maps, one (B, H, W, C) a branch."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [fuse(maps) for fuse in self.fuse]


class HRStage(nn.Module):
    """A transition that adds a branch, then modules.

    Args:
        in_dims: channels of the branches that come in.
        dims: channels of the branches here, one more.
        block: makes a block from its channels and its drop path rate.
        rates: for each module, the drop path rates of a branch's blocks.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        dims: Sequence[int],
        block: Callable[[int, float], nn.Module],
        rates: Sequence[Sequence[float]],
    ):
        super().__init__()
        old = [
            nn.Identity() if a == b else ConvNormAct(a, b, 3)
            for a, b in zip(in_dims, dims, strict=False)
        ]
        self.transition = nn.ModuleList([*old, ConvNormAct(in_dims[-1], dims[-1], 3, stride=2)])
        self.layers = nn.Sequential(*(HRModule(dims, block, r) for r in rates))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix maps, one (B, H, W, C) a branch, and one more from the coarsest of them."""
        sources = [*maps, maps[-1]]
        maps = [
            layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            for layer, x in zip(self.transition, sources, strict=True)
        ]
        return self.layers(maps)


class FuseScales(nn.Module):
    """Widen every branch and add them up from fine to coarse, as HRNet's classifier does.

    Args:
        in_dims: channels of the branches.
        dims: channels they are widened to.
        num_features: channels that the coarsest map ends with.
    """

    def __init__(self, in_dims: Sequence[int], dims: Sequence[int], num_features: int):
        super().__init__()
        self.widen = nn.ModuleList(bottleneck(a, b) for a, b in zip(in_dims, dims, strict=True))
        self.down = nn.ModuleList(ConvNormAct(a, b, 3, stride=2) for a, b in pairwise(dims))
        self.final = ConvNormAct(dims[-1], num_features, 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, H, W, C) of the first branches, or all, to as many sums (B, H, W, C')."""
        sums = []
        for i, x in enumerate(maps):
            y = self.widen[i](x.permute(0, 3, 1, 2))
            sums.append(self.down[i - 1](sums[-1]) + y if sums else y)
        if len(maps) == len(self.widen):
            sums[-1] = self.final(sums[-1])
        return [y.permute(0, 2, 3, 1) for y in sums]

    def keep(self, count: int) -> None:
        """Drop what the first `count` sums do not need."""
        if count < len(self.widen):
            self.widen, self.down = self.widen[:count], self.down[: count - 1]
            self.final = nn.Identity()


def hr_stages(
    block: Callable[[int, float], nn.Module],
    stem_dim: int,
    modules: Sequence[int],
    depths: Sequence[int],
    dims: Sequence[int],
    drop_path_rate: float,
) -> list[HRStage]:
    """Stages of two branches and more; drop path rates rise from module to module.

    Args:
        block: makes a block from its channels and its drop path rate.
        stem_dim: channels after the stem.
        modules: modules a stage.
        depths: blocks of a branch in the modules of each stage.
        dims: channels of the branches of the last stage.
        drop_path_rate: stochastic depth of the last blocks, rising linearly from 0.
    """
    blocks = [depth for depth, count in zip(depths, modules, strict=True) for _ in range(count)]
    rates = iter(calculate_drop_path_rates(drop_path_rate, blocks, stagewise=True))
    stages, in_dims = [], (stem_dim,)
    for i, count in enumerate(modules):
        stage_dims = dims[: i + 2]
        stages.append(HRStage(in_dims, stage_dims, block, [next(rates) for _ in range(count)]))
        in_dims = stage_dims
    return stages
