"""HRVMamba: high-resolution network of visual state space blocks for dense prediction.

Paper: Zhang et al., HRVMamba: High-Resolution Visual State Space Model for Dense Prediction,
arXiv 2410.03174.
Official code and weights: https://github.com/zhanghao5201/HRVMamba (no licence stated).

As in HRNet (arXiv 1908.07919) up to four branches run side by side, at strides 4, 8, 16 and 32, and
exchange what they see after every few blocks. The authors' code as published does not run: this is
the model that its weights belong to, by their number (see `DeformableSampling`).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead, DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..kernels.linear import Linear
from ..layers import DeformableSampling, Mlp, PositionEncoding
from ..scans import Route, Scan2d
from ._build import build, imagenet_cfg, on_google_drive
from ._checkpoint import match_shapes, rename, scan_names
from ._contract import Backbone
from ._hrnet import FuseScales, HRStem, hr_stages
from ._official import choose, refuse_unpublished
from ._pyramid import checkpoint_stages

__all__ = ["HRVMamba", "HRVMambaBlock"]

SIZES = (3, 5, 7, 9)  # of the multi-scale convolution's kernels


class MultiScaleConv(nn.Module):
    """Depthwise convolutions of 3, 5, 7 and 9, each of a quarter of the channels, then shuffled.

    (B, H, W, C) → (B, H, W, C). Quarter q's channel c becomes channel 4·c + q.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim % len(SIZES):
            raise ValueError(f"dim is {dim}, expected a multiple of {len(SIZES)}")
        part = dim // len(SIZES)
        self.convs = nn.ModuleList(
            nn.Conv2d(part, part, size, padding=size // 2, groups=part) for size in SIZES
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, H, W, C)."""
        parts = x.permute(0, 3, 1, 2).chunk(len(SIZES), dim=1)
        y = [conv(part) for conv, part in zip(self.convs, parts, strict=True)]
        return torch.stack(y, dim=2).flatten(1, 2).permute(0, 2, 3, 1)


class SqueezeExcitation(nn.Module):
    """Weighs channels by their mean over the map: (B, H, W, C) → (B, H, W, C).

    Source: SENet, arXiv 1709.01507.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = Linear(dim, max(dim // 8, 1), bias=False)
        self.fc2 = Linear(max(dim // 8, 1), dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of x (B, H, W, C)."""
        return x * self.fc2(self.fc1(x.mean((1, 2), keepdim=True)).relu()).sigmoid()


class HRVMambaBlock(nn.Module):
    """Multi-scale convolution, deformable 2-D scan and MLP, each pre-norm with a residual.

    (B, H, W, C) → (B, H, W, C).

    Args:
        dim: channels C, a multiple of 4.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        drop_path: probability that the scan's or MLP's branch is left out for a sample.
        se_lpu: squeeze and excite the scan's output, and encode positions before the multi-scale
            convolution (for its branch alone, as published) and before the MLP.
        routes: scan routes, as in `Scan2d`.

    Source: dynamic visual state space block of HRVMamba, arXiv 2410.03174, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        se_lpu: bool = False,
        routes: str | Sequence[str | Route] = "cross",
    ):
        super().__init__()
        self.cpe1 = PositionEncoding(dim) if se_lpu else nn.Identity()
        self.norm0 = nn.LayerNorm(dim)
        self.local = MultiScaleConv(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.scan = Scan2d(
            dim,
            routes=routes,
            expand=2.0,
            local=partial(DeformableSampling, groups=math.ceil(dim / 16), depthwise=dim % 80 == 0),
            attention=SqueezeExcitation if se_lpu else None,
        )
        self.cpe2 = PositionEncoding(dim) if se_lpu else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix neighbours, tokens, then channels, of x (B, H, W, C)."""
        x = x + F.gelu(self.local(self.norm0(self.cpe1(x))))
        x = x + self.drop_path(self.scan(self.norm1(x)))
        x = self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class HRVMamba(Backbone):
    """HRVMamba image model, any image size.

    Its feature maps are the last outputs of the four branches; with `neck_features`, the sums that
    lead to the classifier.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        stem_depth: bottlenecks of the stem.
        stem_dim: channels inside them.
        modules: modules of the stages, which have two, three, ... branches.
        depths: blocks of a branch in the modules of each stage.
        dims: channels of the branches, multiples of 4, finest first.
        mlp_ratio: hidden width of the MLPs as a multiple of the channels.
        se_lpu: as in `HRVMambaBlock`.
        routes: scan routes, as in `Scan2d`.
        neck_dims: channels of the branches on the way to the classifier, multiples of 4.
        num_features: channels before the classifier.
        neck_features: whether feature maps are those on the way to the classifier, of channels
            neck_dims but for the last, which has num_features; None for where there are out_norms,
            as the authors' segmenter is trained.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last blocks, rising linearly from 0.
        out_norms: levels whose feature map gets a LayerNorm of its own; True for all.
        device: where the parameters are made.
        dtype: type of the parameters.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_depth: int = 2,
        stem_dim: int = 64,
        modules: Sequence[int] = (1, 4, 2),
        depths: Sequence[int] = (2, 2, 2),
        dims: Sequence[int] = (32, 64, 128, 256),
        mlp_ratio: float = 2.0,
        se_lpu: bool = False,
        routes: str | Sequence[str | Route] = "cross",
        neck_dims: Sequence[int] = (128, 256, 512, 1024),
        num_features: int = 2048,
        neck_features: bool | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if neck_features is None:
            neck_features = bool(out_norms)

        def block(dim: int, rate: float) -> HRVMambaBlock:
            return HRVMambaBlock(
                dim, mlp_ratio=mlp_ratio, drop_path=rate, se_lpu=se_lpu, routes=routes
            )

        map_dims = (*neck_dims[:-1], num_features) if neck_features else tuple(dims)
        with torch.device(device or torch.get_default_device()):
            super().__init__(
                map_dims,
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                out_norms=out_norms,
            )
            self.stem = HRStem(in_chans, stem_dim, stem_depth)
            self.stages = nn.Sequential(
                *hr_stages(block, 4 * stem_dim, modules, depths, dims, drop_path_rate)
            )
            self.neck = FuseScales(dims, neck_dims, num_features)
            self.neck_features = neck_features
            self.norm = nn.Identity()  # nothing is left to normalise after the neck
            self.num_features = num_features
            self.head = ClassifierHead(
                num_features, num_classes, global_pool, drop_rate, input_fmt="NHWC"
            )
            self.init_weights()
        self.head_hidden_size = self.head.num_features
        last = f"stages.{len(modules) - 1}.layers.{modules[-1] - 1}.fuse"
        makers = "neck.widen" if neck_features else last
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"{makers}.{i}"}
            for i, dim in enumerate(map_dims)
        ]
        self.to(dtype=dtype)

    def init_weights(self, std: float | None = 0.02) -> None:
        """Linear layers as in `Backbone`, except where masks start at a mean."""
        super().init_weights(std)
        for module in self.modules():
            if isinstance(module, DeformableSampling):
                module.reset_parameters()

    @property
    def levels(self) -> nn.ModuleList:
        """The fusions that give the branches' last outputs."""
        return self.stages[-1].layers[-1].fuse

    def keep_levels(self, count: int) -> None:
        """Drop the outputs of the branches after the first `count`."""
        self.stages[-1].layers[-1].fuse = self.levels[:count]

    def forward_branches(self, x: Tensor) -> list[Tensor]:
        """Image (B, in_chans, H, W) → the branches' last outputs, each (B, H', W', C)."""
        self.check_image(x)
        maps = [self.stem(x)]
        for stage in self.stages:
            maps = stage(maps)
        return maps

    def forward_levels(
        self, x: Tensor, taken: Collection[int], count: int
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run all branches and keep the first `count`; see `Backbone`."""
        maps = self.forward_branches(x)[:count]
        x = maps[-1]
        if self.neck_features or (self.neck is not None and count == len(self.feature_info)):
            sums = self.neck(maps)
            x, maps = sums[-1], sums if self.neck_features else maps
        return x, {i: maps[i] for i in taken}

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → last map (B, H/32, W/32, num_features)."""
        return self.forward_levels(x, (), len(self.levels))[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map (B, H, W, C) → logits, or pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """As `Backbone.prune_intermediate_layers`; the neck goes with the head if no map is its."""
        taken = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        count = len(self.levels)
        if self.neck_features:
            self.neck.keep(count)
        elif prune_head or count < len(self.feature_info):
            self.neck = None
            self.num_features = self.feature_info[count - 1]["num_chs"]
            self.reset_classifier(0, "")
        return taken

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        checkpoint_stages(self, enable)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer-wise learning rates."""
        modules = [
            (r"^stages\.(\d+)\.transition", (0,)),
            (r"^stages\.(\d+)\.layers\.(\d+)", None),
            (r"^(?:neck|out_norms)", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else modules}

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Takes the weights of their pose network and, with its out-norms, of their segmenter too. Nothing
    is dropped.
    """
    if not any(key.startswith(("conv1.", "layer1.", "stage2.")) for key in state_dict):
        return dict(state_dict)
    return match_shapes(rename(state_dict, OFFICIAL_NAMES), model)


PAIR = {"0": "conv", "1": "bn", "2": "conv", "3": "bn"}  # convolutions and their norms
OFFICIAL_NAMES = (
    (r"^conv([12])\.", r"stem.conv\1.conv."),
    (r"^bn([12])\.", r"stem.conv\1.bn."),
    (r"^layer1\.", "stem.blocks."),
    (r"^outnorm(\d+)\.", r"out_norms.\1."),
    (r"^neck\.increase_layers\.(\d+)\.0\.", r"neck.widen.\1."),
    (r"^neck\.downsample_layers\.", "neck.down."),
    (r"^neck\.final_layer\.", "neck.final."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    # A transition is a convolution and its norm, within a sequence where it adds a branch.
    (
        r"^transition(\d)\.(\d)\.(?:0\.)?([01])\.(\w+)$",
        lambda m: f"stages.{int(m[1]) - 1}.transition.{m[2]}.{PAIR[m[3]]}.{m[4]}",
    ),
    (r"^stage(\d)\.", lambda m: f"stages.{int(m[1]) - 2}.layers."),
    (r"\.fuse_layers\.(\d)\.(\d)\.", r".fuse.\1.paths.\2."),
    (r"(\.paths\.\d)\.([01])\.(\w+)$", lambda m: f"{m[1]}.{PAIR[m[2]]}.{m[3]}"),
    (
        r"(\.paths\.\d\.\d)\.([0-3])\.(\w+)$",
        lambda m: f"{m[1]}.{int(m[2]) // 2}.{PAIR[m[2]]}.{m[3]}",
    ),
    (r"(\.branches\.\d)\.", r"\1.blocks."),
    (r"(\.blocks\.\d)\.conv2d\.", r"\1.local.convs."),
    (r"(\.blocks\.\d)\.norm\.", r"\1.norm1."),
    (r"\.op\.", ".scan."),
    *scan_names(r"\.scan"),
    (r"\.offset_mask_dw\.", ".conv."),
    (r"\.se\.fc\.0\.", ".attention.fc1."),
    (r"\.se\.fc\.2\.", ".attention.fc2."),
)


def from_official_kwargs(
    extra: Mapping[str, Any],
    in_channels: int = 3,
    norm_cfg: Mapping[str, Any] | None = None,
    num_classes: int = 1000,
    neck_out_channels: Sequence[int] = (128, 256, 512, 1024),
    neck_final: int = 2048,
    model_class: str = "HRVmamba",
) -> dict:
    """Arguments of `HRVMamba` for those of the authors' class, with its sizes.

    Args:
        extra: their table of the four stages.
        in_channels: channels of the image.
        norm_cfg: the norm of convolutions, batch norm.
        num_classes: classes of the head.
        neck_out_channels: channels of the branches before the classifier, a constant of theirs.
        neck_final: channels before the classifier, a constant of theirs.
        model_class: "HRVmamba" (small, base) or "HRVmamba_se_lpu" (nano, tiny).

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(norm_cfg=((norm_cfg or {"type": "BN"}).get("type"), "BN"))
    first, *stages = (extra[f"stage{i}"] for i in range(1, 5))
    dims = stages[-1]["num_channels"]
    refuse_unpublished(**{"stage1.block": (first["block"], "BOTTLENECK")})
    for number, stage in enumerate(stages, start=2):
        _refuse_unpublished_stage(f"stage{number}", stage, dims[:number])
    return {
        "in_chans": in_channels,
        "num_classes": num_classes,
        "stem_depth": first["num_blocks"][0],
        "stem_dim": first["num_channels"][0],
        "modules": [stage["num_modules"] for stage in stages],
        "depths": [stage["num_blocks"][0] for stage in stages],
        "dims": dims,
        "mlp_ratio": stages[0]["mlp_ratio"],
        "se_lpu": choose("model_class", model_class, {"HRVmamba": False, "HRVmamba_se_lpu": True}),
        "neck_dims": neck_out_channels,
        "num_features": neck_final,
        "drop_path_rate": extra["drop_path_rate"],
    }


def _refuse_unpublished_stage(name: str, stage: Mapping[str, Any], dims: Sequence[int]) -> None:
    """Refuse a stage that no published model has, or that our arguments cannot say."""
    published = {
        **STAGE,
        "num_branches": len(dims),
        "num_blocks": [stage["num_blocks"][0]] * len(dims),
        "num_channels": list(dims),
    }
    for argument, value in stage.items():
        if argument != "num_modules" and value != published.get(argument):
            expected = published.get(argument, "no such argument")
            raise ValueError(f"{name}.{argument} is {value!r}, expected {expected!r}")


STAGE = {
    "block": "HRVmambaBlock",
    "ssm_d_state": 1,
    "ssm_ratio": 2.0,
    "ssm_dt_rank": "auto",
    "ssm_act_layer": "silu",
    "ssm_conv": 3,
    "ssm_conv_bias": False,
    "ssm_drop_rate": 0.0,
    "ssm_init": "v0",
    "forward_type": "v05_noz",
    "mlp_ratio": 2.0,
    "mlp_act_layer": "gelu",
    "mlp_drop_rate": 0.0,
    "gmlp": False,
}


def _cfg(size: int = 256, **kwargs) -> dict:
    return imagenet_cfg(
        first_conv="stem.conv1.conv",
        license="unstated",
        paper_ids="arXiv:2410.03174",
        paper_name="HRVMamba: High-Resolution Visual State Space Model for Dense Prediction",
        origin_url="https://github.com/zhanghao5201/HRVMamba",
        **{"input_size": (3, size, size), "pool_size": (size // 32, size // 32), **kwargs},
    )


default_cfgs = generate_default_cfgs(
    {
        "hrvmamba_nano.in1k": _cfg(**on_google_drive("1vjoEmX8NGh3D4aIB2zTP6eKN23zXmd7i")),
        "hrvmamba_tiny.in1k": _cfg(**on_google_drive("18MnK9b-Ip7RLevdAzzPBFNIe_BNHg2Ry")),
        "hrvmamba_small.in1k": _cfg(**on_google_drive("1Gxo0Pxg2D7x3dU0P2AZ2YGEFS-7XMxIX")),
        "hrvmamba_base.in1k": _cfg(224, **on_google_drive("1jbXjvCBdjgraeEaJrDjD2wStpxJtCEuy")),
        "test_hrvmamba.untrained": _cfg(64),
    }
)


def _branches(dim: int) -> tuple[int, ...]:
    return tuple(dim * 2**i for i in range(4))


@register_model
def hrvmamba_nano(pretrained: bool = False, **kwargs) -> HRVMamba:
    """HRVMamba-N: 12.3 M parameters, 74.8 % top-1 as published."""
    model = {"stem_dim": 16, "dims": _branches(8), "se_lpu": True}
    return build(HRVMamba, "hrvmamba_nano", pretrained, **{**model, **kwargs})


@register_model
def hrvmamba_tiny(pretrained: bool = False, **kwargs) -> HRVMamba:
    """HRVMamba-T: 14.1 M parameters, 78.6 % top-1 as published."""
    model = {"stem_dim": 32, "dims": _branches(16), "se_lpu": True}
    return build(HRVMamba, "hrvmamba_tiny", pretrained, **{**model, **kwargs})


@register_model
def hrvmamba_small(pretrained: bool = False, **kwargs) -> HRVMamba:
    """HRVMamba-S: 20.1 M parameters, 81.3 % top-1 as published."""
    return build(HRVMamba, "hrvmamba_small", pretrained, **kwargs)


@register_model
def hrvmamba_base(pretrained: bool = False, **kwargs) -> HRVMamba:
    """HRVMamba-B: 60.5 M parameters, 84.2 % top-1 as published."""
    model = {"dims": _branches(80)}
    return build(HRVMamba, "hrvmamba_base", pretrained, **{**model, **kwargs})


@register_model
def test_hrvmamba(pretrained: bool = False, **kwargs) -> HRVMamba:
    """The smallest HRVMamba, for tests; its last branch is of the base model's kind."""
    model = {
        "stem_depth": 1,
        "stem_dim": 4,
        "modules": (1, 2, 1),
        "depths": (1, 1, 1),
        "dims": (8, 16, 16, 80),
        "se_lpu": True,
        "neck_dims": (16, 16, 32, 32),
        "num_features": 48,
    }
    return build(HRVMamba, "test_hrvmamba", pretrained, **{**model, **kwargs})
