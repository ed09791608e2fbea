"""timm's model contract for backbones made of a stem and stages of falling resolution."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise

import torch
from timm.layers import ClassifierHead, calculate_drop_path_rates
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from ._contract import Backbone


class Stage(nn.Module):
    """An optional downsampling layer, then blocks; maps are (B, H, W, C).

    Args:
        blocks: modules that keep the shape of the map.
        downsample: module that starts the stage, if any.
    """

    def __init__(self, blocks: Iterable[nn.Module], downsample: nn.Module | None = None):
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage on x (B, H, W, C)."""
        return self.run_blocks(self.downsample(x))

    def run_blocks(self, x: Tensor) -> Tensor:
        """Run what comes after the downsampling."""
        for block in self.blocks:
            x = self.run(block, x)
        return x

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Run one block, to be recomputed in the backward pass where that is wanted."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs)
        return block(*inputs)


def checkpoint_stages(model: nn.Module, enable: bool) -> None:
    """Whether every stage in a model recomputes its blocks in the backward pass."""
    for stage in (m for m in model.modules() if isinstance(m, Stage)):
        stage.grad_checkpointing = enable


def block_stages(
    block: Callable[[int, int, float], nn.Module],
    downsample: Callable[[int, int], nn.Module],
    depths: Sequence[int],
    dims: Sequence[int],
    drop_path_rate: float,
) -> list[Stage]:
    """Stages whose blocks are all of one kind; the later ones start with a downsampling layer.

    Args:
        block: makes a block from its stage's number and channels and its drop path rate.
        downsample: makes a downsampling layer from the channels before and after it.
        depths: blocks a stage.
        dims: channels a stage.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
    """
    rates = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
    halve = [None, *(downsample(a, b) for a, b in pairwise(dims))]
    return [
        Stage([block(i, dim, rate) for rate in stage_rates], downsample=down)
        for i, (dim, stage_rates, down) in enumerate(zip(dims, rates, halve, strict=True))
    ]


class Pyramid(Backbone):
    """A stem, stages, a last norm and a classifier, with timm's whole contract.

    A family makes its stem and stages and hands them over; it defines `checkpoint_filter_fn` as a
    static method where the authors' weights carry other names. Images of any size are taken.

    Args:
        stem: (B, in_chans, H, W) → (B, H/4, W/4, dims[0]).
        stages: one module a resolution, (B, H, W, C) → (B, H', W', C').
        dims: channels after each stage.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head: avg, max, avgmax, catavgmax or "" for none.
        drop_rate: dropout before the classifier.
        out_norms: stages whose feature map gets a LayerNorm of its own in
            `forward_intermediates` and `features_only`, as detectors and segmenters are trained;
            True for all.
    """

    levels_name = "stages"
    output_fmt = "NHWC"

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        dims: Sequence[int],
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
    ):
        super().__init__(
            dims,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            out_norms=out_norms,
        )
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            for i, dim in enumerate(dims)
        ]
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dims[-1])
        self.head = ClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt="NHWC"
        )
        self.head_hidden_size = self.head.num_features

    def forward_stem(self, x: Tensor) -> Tensor:
        """Check the image and embed it: (B, in_chans, H, W) → (B, H/4, W/4, C)."""
        self.check_image(x)
        return self.stem(x)

    def forward_levels(
        self, x: Tensor, taken: Collection[int], count: int
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the first `count` stages; see `Backbone`."""
        maps = {}
        x = self.forward_stem(x)
        for i, stage in enumerate(self.stages[:count]):
            x = stage(x)
            if i in taken:
                maps[i] = x
        return x, maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → normalised last map (B, H/32, W/32, C)."""
        return self.norm(self.stages(self.forward_stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map (B, H, W, C) → logits, or pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        checkpoint_stages(self, enable)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer-wise learning rates."""
        blocks = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:norm|out_norms)", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}
