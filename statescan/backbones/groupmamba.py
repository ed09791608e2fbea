"""GroupMamba: channel groups that each scan in one direction, modulated by channel attention.

Paper: Shaker et al., GroupMamba: Efficient Group-Based Visual State Space Model, CVPR 2025,
arXiv 2407.13772.
Official code: https://github.com/Amshaker/GroupMamba (MIT).
Official weights: on Google Drive; model pages on Hugging Face under Abdelrahman-shaker.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from timm.layers import ClassifierHead, ConvNormAct, DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..layers import ConvDownsample, ConvMlp, Mlp
from ..layers.resolution import HalvingConv
from ..scans import Route, Scan2d
from ..scans.routes import resolve_routes
from ._build import build, imagenet_cfg, on_google_drive
from ._checkpoint import match_one_route, rename, scan_names
from ._official import choose, refuse_unpublished
from ._pyramid import Pyramid, block_stages

__all__ = ["GroupMamba", "ModulatedGroupScan"]

EPS = 1e-6  # of the norms outside the modulated layer and the convolutions


class ModulatedGroupScan(nn.Module):
    """Norm, then one scan a channel group, multiplied by its input and by channel attention.

    (B, H, W, C) → (B, H, W, C), for any H and W. There are as many groups as routes, each with
    parameters of its own.

    Args:
        dim: channels C.
        routes: scan routes, as in `Scan2d`, one for each group of channels.

    Source: modulated group Mamba layer of GroupMamba, arXiv 2407.13772, section 3.2.
    """

    def __init__(self, dim: int, *, routes: str | Sequence[str | Route] = "cross"):
        super().__init__()
        routes = resolve_routes(routes)
        if dim % len(routes):
            raise ValueError(
                f"routes holds {len(routes)} routes, expected a divisor of the {dim} channels"
            )
        group, hidden = dim // len(routes), max(dim // 16, 1)
        self.norm = nn.LayerNorm(dim)
        self.groups = nn.ModuleList(
            Scan2d(group, routes=route, conv_bias=True, gate=True) for route in routes
        )
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        u = self.norm(x)
        attention = self.fc2(self.fc1(u.mean((1, 2), keepdim=True)).relu()).sigmoid()
        parts = zip(self.groups, u.chunk(len(self.groups), dim=-1), strict=True)
        y = torch.cat([scan(part) for scan, part in parts], dim=-1)
        return self.proj(self.norm(y * self.skip_scale * u * attention))


class GroupMambaBlock(nn.Module):
    """Modulated group scan, then pre-norm MLP with a convolution, each with a residual.

    (B, H, W, C) → (B, H, W, C).

    Args:
        dim: channels C.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        drop_path: probability that a residual branch is left out for a sample.
        routes: as in `ModulatedGroupScan`.
    """

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        routes: str | Sequence[str | Route] = "cross",
    ):
        super().__init__()
        self.mixer = ModulatedGroupScan(dim, routes=routes)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, of x (B, H, W, C)."""
        x = x + self.drop_path(self.mixer(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ClassBlock(nn.Module):
    """Post-norm modulated group scan and pre-norm MLP of a class token (B, 1, 1, C)."""

    def __init__(self, dim: int, *, mlp_ratio: float, routes: str | Sequence[str | Route]):
        super().__init__()
        self.mixer = ModulatedGroupScan(dim, routes=routes)
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Refine class tokens x (B, 1, 1, C)."""
        x = x + self.norm1(self.mixer(x))
        return x + self.mlp(self.norm2(x))


class ClassTokenHead(ClassifierHead):
    """Pool a class token, refine it in a block, normalise and classify it: (B, H, W, C) → logits.

    With `distilled` a second classifier, trained on a teacher's answers, is averaged with the
    first; both are returned while training with `distilled_training`, timm's convention. Without
    pooling ("") maps pass unchanged; "catavgmax" pools two class tokens.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        block: nn.Module,
        *,
        pool_type: str,
        drop_rate: float,
        distilled: bool,
    ):
        super().__init__(dim, num_classes, pool_type, drop_rate, input_fmt="NHWC")
        self.block = block
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.fc_dist = self._second_classifier() if distilled else None
        self.distilled_training = False

    def _second_classifier(self) -> nn.Module:
        fc = copy.deepcopy(self.fc)
        if isinstance(fc, nn.Linear):
            fc.reset_parameters()
        return fc

    def reset(self, *args, **kwargs) -> None:
        """Replace the classifiers, as timm's `ClassifierHead.reset`."""
        super().reset(*args, **kwargs)
        if self.fc_dist is not None:
            self.fc_dist = self._second_classifier()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Map (B, H, W, C) → logits, or the refined class token with `pre_logits`."""
        x = self.global_pool(x)
        if self.global_pool.pool_type:
            tokens = x.reshape(-1, 1, 1, self.in_features)
            x = self.norm(self.block(tokens)).view_as(x)
        x = self.drop(x)
        if pre_logits:
            return x
        if self.fc_dist is None:
            return self.fc(x)
        logits, distilled = self.fc(x), self.fc_dist(x)
        if self.training and self.distilled_training:
            return logits, distilled
        return (logits + distilled) / 2


class GroupStem(nn.Module):
    """Three convolutions at half the resolution, a fourth of stride 2, then LayerNorm.

    (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C).
    """

    def __init__(self, in_chans: int, hidden: int, dim: int):
        super().__init__()
        self.conv1 = ConvNormAct(in_chans, hidden, 7, stride=2)
        self.conv2 = ConvNormAct(hidden, hidden, 3)
        self.conv3 = ConvNormAct(hidden, hidden, 3)
        self.proj = HalvingConv(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))
        x = self.conv3(self.conv2(x))
        return self.norm(self.proj(x.permute(0, 2, 3, 1)))


class GroupMamba(Pyramid):
    """GroupMamba image model, any image size.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the class token.
        depths: blocks a stage.
        dims: channels a stage, multiples of the number of routes.
        stem_dim: channels inside the stem.
        routes: scan routes, as in `Scan2d`, one for each group of channels.
        mlp_ratios: hidden width of the MLP as a multiple of the channels, a stage.
        distilled: whether there is a second classifier for distillation.
        drop_rate: dropout before the classifiers.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        out_norms: stages whose feature map gets a LayerNorm of its own; True for all.
        device: where the parameters are made.
        dtype: type of the parameters.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 4, 9, 3),
        dims: Sequence[int] = (64, 128, 348, 448),
        stem_dim: int = 32,
        routes: str | Sequence[str | Route] = "cross",
        mlp_ratios: Sequence[float] = (8.0, 8.0, 4.0, 4.0),
        distilled: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        def block(stage: int, dim: int, rate: float) -> GroupMambaBlock:
            ratio = mlp_ratios[stage]
            return GroupMambaBlock(dim, mlp_ratio=ratio, drop_path=rate, routes=routes)

        with torch.device(device or torch.get_default_device()):
            super().__init__(
                GroupStem(in_chans, stem_dim, dims[0]),
                block_stages(block, _downsample, depths, dims, drop_path_rate),
                dims,
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                out_norms=out_norms,
            )
            self.norm = nn.Identity()  # the head's norm is the last one
            self.head = ClassTokenHead(
                dims[-1],
                num_classes,
                ClassBlock(dims[-1], mlp_ratio=mlp_ratios[-1], routes=routes),
                pool_type=global_pool,
                drop_rate=drop_rate,
                distilled=distilled,
            )
            self.init_weights()
        self.to(dtype=dtype)

    def init_weights(self, std: float | None = 0.02) -> None:
        """Linear layers as in `Pyramid`; convolutions normal by their fan-out."""
        super().init_weights(std)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The last linear layer, or both with distillation."""
        fc_dist = getattr(self.head, "fc_dist", None)
        return self.head.fc if fc_dist is None else (self.head.fc, fc_dist)

    @torch.jit.ignore
    def set_distilled_training(self, enable: bool = True) -> None:
        """Return both classifiers' logits while training, for a distillation loss."""
        self.head.distilled_training = enable

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """As `Pyramid.prune_intermediate_layers`; the class token's block goes with the head."""
        taken = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if not self.global_pool:
            self.head = ClassifierHead(self.num_features, 0, pool_type="", input_fmt="NHWC")
        return taken

    @torch.jit.ignore
    def unused_parameters(self) -> set[str]:
        """Decay rates of the class block: a scan of one token has no state to decay."""
        names = (name for name, _ in self.named_parameters())
        return {n for n in names if n.startswith("head.block.") and n.endswith(".A_log")}

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def _downsample(dim: int, out_dim: int) -> nn.Module:
    """The norm after a stage, then the next one's convolution with a norm of its own."""
    return nn.Sequential(nn.LayerNorm(dim, eps=EPS), ConvDownsample(dim, out_dim))


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Nothing is dropped.
    """
    if not any(key.startswith(("patch_embed1.", "block1.")) for key in state_dict):
        return dict(state_dict)
    last = (rf"^norm{len(model.feature_info)}\.", "head.norm.")
    return match_one_route(rename(state_dict, (last, *OFFICIAL_NAMES)), model)


def _stage(name: str) -> Callable:
    """A replacement that counts the first group, a stage's number, from 0 instead of 1."""
    return lambda m: name.format(int(m[1]) - 1)


OFFICIAL_NAMES = (
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^dist_head\.", "head.fc_dist."),
    (r"^post_network\.0\.", "head.block."),
    (r"^patch_embed1\.conv\.([036])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}.conv."),
    (r"^patch_embed1\.conv\.([147])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}.bn."),
    (r"^patch_embed1\.", "stem."),
    (r"^patch_embed(\d+)\.proj\.", _stage("stages.{}.downsample.1.conv.")),
    (r"^patch_embed(\d+)\.norm\.", _stage("stages.{}.downsample.1.norm.")),
    (r"^norm(\d+)\.", r"stages.\1.downsample.0."),
    (r"^block(\d+)\.", _stage("stages.{}.blocks.")),
    (r"\.attn\.mamba_g(\d+)\.", lambda m: f".attn.groups.{int(m[1]) - 1}."),
    (r"\.attn\.", ".mixer."),
    *scan_names(r"\.groups\.\d+"),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.conv."),
)


def from_official_kwargs(
    in_chans: int = 3,
    num_classes: int = 1000,
    stem_hidden_dim: int = 32,
    embed_dims: Sequence[int] = (64, 128, 348, 448),
    mlp_ratios: Sequence[float] = (8, 8, 4, 4),
    drop_path_rate: float = 0.0,
    norm_layer: Callable[[int], nn.Module] | str = nn.LayerNorm,
    depths: Sequence[int] = (3, 4, 6, 3),
    num_stages: int = 4,
    distillation: bool = True,
) -> dict:
    """Arguments of `GroupMamba` for those of the authors' class, with that class's defaults.

    norm_layer may be given as the text "functools.partial(nn.LayerNorm, eps=1e-6)", which every
    published model has.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    eps = norm_layer(1).eps if callable(norm_layer) else norm_layer
    choose("norm_layer", eps, {EPS: None, "functools.partial(nn.LayerNorm, eps=1e-6)": None})
    refuse_unpublished(num_stages=(num_stages, 4))
    return {
        "in_chans": in_chans,
        "num_classes": num_classes,
        "depths": depths,
        "dims": embed_dims,
        "stem_dim": stem_hidden_dim,
        "mlp_ratios": mlp_ratios,
        "distilled": distillation,
        "drop_path_rate": drop_path_rate,
    }


def _cfg(**kwargs) -> dict:
    return imagenet_cfg(
        first_conv="stem.conv1.conv",
        classifier=("head.fc", "head.fc_dist"),
        license="mit",
        paper_ids="arXiv:2407.13772",
        paper_name="GroupMamba: Efficient Group-Based Visual State Space Model",
        origin_url="https://github.com/Amshaker/GroupMamba",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "groupmamba_tiny.in1k": _cfg(**on_google_drive("1TrYYs0uGZbja_2ONQLyfiNdp8C5ZYP1o")),
        "groupmamba_small.in1k": _cfg(**on_google_drive("1vTN9ynDcsDuOVrcT9GcQ5nBSk-hXySlh")),
        "groupmamba_base.in1k": _cfg(**on_google_drive("1A_srBeDYpsinU5W3PAEADu1saoz413EU")),
        "test_groupmamba.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


@register_model
def groupmamba_tiny(pretrained: bool = False, **kwargs) -> GroupMamba:
    """GroupMamba-T: 23.4 M parameters, 83.3 % top-1 as published."""
    return build(GroupMamba, "groupmamba_tiny", pretrained, **kwargs)


@register_model
def groupmamba_small(pretrained: bool = False, **kwargs) -> GroupMamba:
    """GroupMamba-S: 34.8 M parameters, 83.9 % top-1 as published."""
    model = {"depths": (3, 4, 16, 3), "dims": (64, 128, 348, 512), "stem_dim": 64}
    return build(GroupMamba, "groupmamba_small", pretrained, **{**model, **kwargs})


@register_model
def groupmamba_base(pretrained: bool = False, **kwargs) -> GroupMamba:
    """GroupMamba-B: 57.2 M parameters, 84.5 % top-1 as published."""
    model = {"depths": (3, 6, 21, 3), "dims": (96, 192, 424, 512), "stem_dim": 64}
    return build(GroupMamba, "groupmamba_base", pretrained, **{**model, **kwargs})


@register_model
def test_groupmamba(pretrained: bool = False, **kwargs) -> GroupMamba:
    """The smallest GroupMamba, for tests."""
    model = {
        "depths": (1, 1, 1, 1),
        "dims": (64, 64, 96, 128),
        "stem_dim": 8,
        "mlp_ratios": (2.0, 2.0, 2.0, 2.0),
    }
    return build(GroupMamba, "test_groupmamba", pretrained, **{**model, **kwargs})
