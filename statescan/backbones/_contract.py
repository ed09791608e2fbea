"""timm's model contract: what pyramids and isotropic backbones have in common."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ._checkpoint import check_foreign


class LoadsOfficial(nn.Module):
    """A module that takes the authors' checkpoints wherever weights are loaded."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Load through the filter, under any prefix."""
        own = {k: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
        if own:
            own = self.checkpoint_filter_fn({k[len(prefix) :]: v for k, v in own.items()}, self)
            check_foreign(own, self)
            state_dict.update({prefix + k: v for k, v in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """The authors' state_dict under our names and shapes; ours is returned unchanged."""
        return dict(state_dict)


class Backbone(LoadsOfficial, ABC):
    """A stem, levels (stages or blocks), a last norm and a classifier.

    A subclass sets `feature_info`, `stem`, `norm` and `head`, names its levels in `levels_name`,
    and says how to run and read them: `forward_levels`, `forward_features`, `forward_head`.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        dims: channels after each level.
        out_norms: levels whose feature map gets a LayerNorm of its own in
            `forward_intermediates` and `features_only`; True for all.
        out_norm_eps: epsilon of those norms.
    """

    levels_name: str
    output_fmt: str
    no_decay = ("A_log", "D", "dt_proj_bias", "dt_bias")  # endings of names

    def __init__(
        self,
        dims: Sequence[int],
        *,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        out_norms: bool | Sequence[int],
        out_norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.num_features = dims[-1]
        if isinstance(out_norms, bool):
            out_norms = range(len(dims)) if out_norms else ()
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=out_norm_eps) for i in out_norms}
        )

    @property
    def levels(self) -> nn.Sequential:
        """The stages or blocks."""
        return getattr(self, self.levels_name)

    def keep_levels(self, count: int) -> None:
        """Drop the levels after the first `count`."""
        setattr(self, self.levels_name, self.levels[:count])

    def init_weights(self, std: float | None = 0.02) -> None:
        """Linear layers from a truncated normal; None takes a deviation of 1/√inputs."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def check_image(self, x: Tensor) -> None:
        """Refuse what is no batch of images with the model's channels."""
        if x.dim() != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (batch, {self.in_chans}, height, width)"
                " with height and width of at least 1"
            )
        if not x.is_floating_point():
            raise ValueError(f"x has dtype {x.dtype}, expected a floating-point dtype")

    @abstractmethod
    def forward_levels(
        self, x: Tensor, taken: Collection[int], count: int
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run the first `count` levels on an image.

        Returns:
            What the last of them gives, and the maps (B, H, W, C) of those taken.
        """

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → normalised features of the last level."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features → logits, or pooled features with `pre_logits`."""

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def takes_norm(self, level: int) -> bool:
        """Whether the model's last norm can be applied to a level's map."""
        return level == len(self.feature_info) - 1

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the levels, with their `out_norms` where the model has them.

        Args:
            x: image (B, in_chans, H, W).
            indices: the last n levels if an int, all if None, else the levels by number.
            norm: apply the model's last norm where it fits and there is no out-norm: to the last
                stage's map, or to every block's.
            stop_early: run no level after the last one asked for.
            output_fmt: "NCHW", or the model's own "NHWC" (pyramids) or "NLC" (isotropic models).
            intermediates_only: return the maps alone, without the final features.
        """
        if output_fmt not in ("NCHW", self.output_fmt):
            raise ValueError(
                f"output_fmt is {output_fmt!r}, expected 'NCHW' or {self.output_fmt!r}"
            )
        taken, end = feature_take_indices(len(self.levels), indices)
        count = end + 1 if stop_early else len(self.levels)
        x, maps = self.forward_levels(x, taken, count)
        intermediates = [
            self.in_format(self.finish_map(i, m, norm), output_fmt) for i, m in maps.items()
        ]
        if intermediates_only:
            return intermediates
        return (self.norm(x) if count == len(self.feature_info) else x), intermediates

    def finish_map(self, level: int, x: Tensor, norm: bool) -> Tensor:
        """A level's map (B, H, W, C) as it is handed out."""
        if str(level) in self.out_norms:
            return self.out_norms[str(level)](x)
        return self.norm(x) if norm and self.takes_norm(level) else x

    def in_format(self, x: Tensor, output_fmt: str) -> Tensor:
        """A map (B, H, W, C) as "NCHW", "NHWC" or "NLC"."""
        if output_fmt == "NCHW":
            return x.permute(0, 3, 1, 2).contiguous()
        return x.flatten(1, 2) if output_fmt == "NLC" else x

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the given levels' maps do not need; returns their numbers."""
        taken, end = feature_take_indices(len(self.levels), indices)
        cut = end < len(self.levels) - 1
        self.keep_levels(end + 1)
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
    def no_weight_decay(self) -> set[str]:
        """Parameters that decay would pull towards zero to no good: those that set time scales."""
        return {name for name, _ in self.named_parameters() if name.endswith(self.no_decay)}

    @torch.jit.ignore
    def unused_parameters(self) -> set[str]:
        """Parameters that checkpoints hold although no output depends on them."""
        return set()
