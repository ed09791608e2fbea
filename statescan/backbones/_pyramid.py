"""timm's model contract for backbones made of a stem and stages of falling resolution."""

from collections.abc import Iterable, Sequence

import torch
from timm.layers import ClassifierHead
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from ._checkpoint import check_foreign


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
        x = self.downsample(x)
        for block in self.blocks:
            recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x) if recompute else block(x)
        return x


class Pyramid(nn.Module):
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
        super().__init__()
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.num_features = dims[-1]
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
        if isinstance(out_norms, bool):
            out_norms = range(len(dims)) if out_norms else ()
        self.out_norms = nn.ModuleDict({str(i): nn.LayerNorm(dims[i]) for i in out_norms})

    def init_weights(self, std: float | None = 0.02) -> None:
        """Linear layers from a truncated normal; None takes a deviation of 1/√inputs."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Check the image and embed it: (B, in_chans, H, W) → (B, H/4, W/4, C)."""
        if x.dim() != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (batch, {self.in_chans}, height, width)"
                " with height and width of at least 1"
            )
        return self.stem(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → normalised last map (B, H/32, W/32, C)."""
        return self.norm(self.stages(self.forward_stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map (B, H, W, C) → logits, or pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stages, with their `out_norms` where the model has them.

        Args:
            x: image (B, in_chans, H, W).
            indices: the last n stages if an int, all if None, else the stages by number.
            norm: apply the model's last norm to the last stage's map, where it has no out-norm.
            stop_early: run no stage after the last one asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the maps alone, without the final features.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}, expected 'NCHW' or 'NHWC'")
        last = len(self.feature_info) - 1
        taken, end = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.forward_stem(x)
        for i, stage in enumerate(self.stages[: end + 1] if stop_early else self.stages):
            x = stage(x)
            if i in taken:
                feature = self.out_norms[str(i)](x) if str(i) in self.out_norms else x
                if norm and i == last and feature is x:
                    feature = self.norm(x)
                intermediates.append(
                    feature.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else feature
                )
        if intermediates_only:
            return intermediates
        return (self.norm(x) if i == last else x), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the given stages' maps do not need; returns their numbers."""
        taken, end = feature_take_indices(len(self.stages), indices)
        cut = end < len(self.stages) - 1
        self.stages = self.stages[: end + 1]
        for i in set(self.out_norms) - set(map(str, taken)):
            del self.out_norms[i]
        if prune_norm or cut:
            self.norm = nn.Identity()
        if cut:
            self.num_features = self.feature_info[end]["num_chs"]
        if prune_head or cut:
            self.reset_classifier(0, "")
        return taken

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling if given; 0 classes leave none."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool, in_features=self.num_features)
        self.head_hidden_size = self.head.num_features
        if global_pool is not None:
            self.global_pool = global_pool

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer-wise learning rates."""
        blocks = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:norm|out_norms)", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Scan parameters that set time scales, which decay would pull towards zero."""
        scales = ("A_log", "D", "dt_proj_bias", "dt_bias")
        return {name for name, _ in self.named_parameters() if name.endswith(scales)}

    @torch.jit.ignore
    def unused_parameters(self) -> set[str]:
        """Parameters that checkpoints hold although no output depends on them."""
        return set()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Take the authors' checkpoints wherever weights are loaded, under any prefix."""
        own = {k: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
        if own:
            own = self.checkpoint_filter_fn({k[len(prefix) :]: v for k, v in own.items()}, self)
            check_foreign(own, self)
            state_dict.update({prefix + k: v for k, v in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The authors' state_dict under our names and shapes; ours is returned unchanged."""
        return state_dict
