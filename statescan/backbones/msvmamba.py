"""MSVMamba: one scan at full resolution, all others as one at half the resolution.

Paper: Shi et al., Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model, NeurIPS
2024, arXiv 2405.14174.
Official code: https://github.com/YuHengsss/MSVMamba (no licence file), `v3` on its branch v2.
Official weights: on Google Drive, of `v3` on Hugging Face under YuhengSSS.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..kernels.linear import Linear
from ..layers import DOWNSAMPLES, STEMS, ConvMlp
from ..scans import S6, Route
from ..scans.routes import Joined, Reverse, column, resolve_routes
from . import vmamba
from ._build import build, imagenet_cfg, on_google_drive
from ._checkpoint import match_one_route, rename
from ._official import choose, refuse_unpublished
from ._pyramid import Pyramid, Stage

__all__ = ["MSVMamba", "MultiScaleScan"]

ROUTES = ("bidirectional", column, Reverse(column))  # VMamba's four, in this order


class MultiScaleScan(nn.Module):
    """Multi-scale 2-D scan: the first route at full, the others joined at half the resolution.

    (B, H, W, C) → (B, H, W, C), for any H and W. The half-resolution map is made by a 7x7
    convolution of stride 2; its routes follow each other in one scan, which keeps its state.

    Args:
        dim: channels C.
        routes: scan routes, as in `Scan2d`, at least two.
        d_state: states a channel.
        expand: inner width as a multiple of dim.
        dt_rank: rank of dt; "auto" is ceil(dim / 16).
        gate: multiply the output by act(z), z a second projection of the input.
        norm_visits: normalise what the scans put out at every visit of a position, before it is
            added up; otherwise once, at the end.
        upsample: interpolation of the half-resolution map, "nearest" or "bilinear".

    Source: MS2D of MSVMamba, arXiv 2405.14174, section 4.2.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str | Route] = ROUTES,
        d_state: int = 1,
        expand: float = 1.0,
        dt_rank: int | str = "auto",
        gate: bool = False,
        norm_visits: bool = False,
        upsample: str = "nearest",
    ):
        super().__init__()
        first, *others = resolve_routes(routes)
        if not others:
            raise ValueError(
                "routes holds 1 route, expected one at full and at least one at half resolution"
            )
        self.copies = len(others) if norm_visits else 1
        self.gate, self.norm_visits, self.upsample = gate, norm_visits, upsample
        inner, hidden = int(dim * expand), max(int(dim * expand) // 8, 1)
        rank = math.ceil(dim / 16) if dt_rank == "auto" else int(dt_rank)
        self.in_proj = Linear(dim, inner * 2 if gate else inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.half_conv = nn.Conv2d(inner, inner, 7, stride=2, padding=3, groups=inner)
        self.full_s6 = S6(inner, routes=first, d_state=d_state, dt_rank=rank)
        joined = Joined(tuple(others), stacked=norm_visits)
        self.half_s6 = S6(inner, routes=joined, d_state=d_state, dt_rank=rank)
        self.norm = nn.LayerNorm(inner)
        self.fc1 = nn.Linear(inner, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, inner, bias=False)
        self.out_proj = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        x = self.in_proj(x)
        if self.gate:
            x, z = x.chunk(2, dim=-1)
        x = x.permute(0, 3, 1, 2)
        y = self.scan_full(F.silu(self.conv(x)).permute(0, 2, 3, 1))
        half = self.scan_half(F.silu(self.half_conv(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = y + F.interpolate(half, y.shape[1:3], mode=self.upsample).permute(0, 2, 3, 1)
        if not self.norm_visits:
            y = self.norm(y)
        y = y * self.fc2(self.fc1(y.mean((1, 2), keepdim=True)).relu()).sigmoid()
        return self.out_proj(y * F.silu(z) if self.gate else y)

    def scan_full(self, x: Tensor) -> Tensor:
        """Scan x (B, H, W, C) along the first route."""
        y = self.full_s6(x)
        return self.norm(y) if self.norm_visits else y

    def scan_half(self, x: Tensor) -> Tensor:
        """Scan x (B, ⌈H/2⌉, ⌈W/2⌉, C) along the other routes, one after the other."""
        if not self.norm_visits:
            return self.half_s6(x)
        y = self.norm(self.half_s6(x.repeat(1, self.copies, 1, 1)))
        return y.unflatten(1, (self.copies, x.shape[1])).sum(1)


class MSVMambaBlock(nn.Module):
    """Pre-norm multi-scale scan, then an MLP with a residual convolution, each with a residual.

    (B, H, W, C) → (B, H, W, C). Arguments beyond these are those of `MultiScaleScan`.

    Args:
        dim: channels C.
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        post_norm: normalise what comes out of the MLP instead of what goes in.
        drop_path: probability that a residual branch is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float = 4.0,
        post_norm: bool = False,
        drop_path: float = 0.0,
        **scan,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.scan = MultiScaleScan(dim, **scan)
        self.post_norm = post_norm
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), residual=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, of x (B, H, W, C)."""
        x = x + self.drop_path(self.scan(self.norm1(x)))
        y = self.norm2(self.mlp(x)) if self.post_norm else self.mlp(self.norm2(x))
        return x + self.drop_path(y)


class MSVMamba(Pyramid):
    """MSVMamba image model, any image size. Its defaults are those of `v3`.

    Args:
        in_chans: channels of the image.
        depths: blocks a stage.
        dims: channels a stage.
        routes: scan routes, as in `MultiScaleScan`.
        d_state: states a channel.
        expand: inner width of the scan as a multiple of the channels.
        dt_rank: rank of dt; "auto" is ceil(channels / 16).
        gate: whether the scan's output is gated.
        norm_visits: where the scan normalises, as in `MultiScaleScan`.
        upsample: interpolation of the half-resolution map, "nearest" or "bilinear".
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        post_norm: normalise what comes out of the MLP instead of what goes in.
        stem: "conv" (two 3x3 of stride 2) or "patch" (one 4x4 of stride 4: at least 4x4 pixels).
        downsample: "conv" (3x3 of stride 2) or "merge" (2x2 patches).
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        device: where the parameters are made.
        dtype: type of the parameters.
        **pyramid: num_classes, global_pool, drop_rate and out_norms, as in `Pyramid`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        *,
        routes: str | Sequence[str | Route] = ROUTES,
        d_state: int = 1,
        expand: float = 1.0,
        dt_rank: int | str = "auto",
        gate: bool = False,
        norm_visits: bool = False,
        upsample: str = "nearest",
        mlp_ratio: float = 4.0,
        post_norm: bool = True,
        stem: str = "conv",
        downsample: str = "conv",
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **pyramid,
    ):
        block = {
            "mlp_ratio": mlp_ratio,
            "post_norm": post_norm,
            "routes": routes,
            "d_state": d_state,
            "expand": expand,
            "dt_rank": dt_rank,
            "gate": gate,
            "norm_visits": norm_visits,
            "upsample": upsample,
        }
        drop_paths = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        with torch.device(device or torch.get_default_device()):
            halve = [None, *(DOWNSAMPLES[downsample](a, b) for a, b in pairwise(dims))]
            stages = [
                Stage((MSVMambaBlock(dim, drop_path=p, **block) for p in rates), downsample=down)
                for dim, rates, down in zip(dims, drop_paths, halve, strict=True)
            ]
            super().__init__(
                STEMS[stem](in_chans, dims[0]), stages, dims, in_chans=in_chans, **pyramid
            )
            self.init_weights()
        self.norm_visits = norm_visits
        for info in self.feature_info:
            info["inner_reduction"] = 2 * info["reduction"]  # of the scan at half resolution
        self.to(dtype=dtype)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Takes the out-norms of detection backbones too. Nothing is dropped.
    """
    named = rename(state_dict, OFFICIAL_MLP_NAMES)
    named = rename(vmamba.checkpoint_filter_fn(named, model), OFFICIAL_SCAN_NAMES)
    # Models that normalise every visit stack the half-resolution scan's parameters first.
    order = ("half_s6", "full_s6") if model.norm_visits else ("full_s6", "half_s6")
    return match_one_route(_split_scans(named, order), model)


def _split_scans(state_dict: Mapping[str, Tensor], order: tuple[str, str]) -> dict[str, Tensor]:
    """The two scans' parameters, which the authors stack, under the names of each."""
    split = {}
    for key, value in state_dict.items():
        if ".scan.s6." in key:
            parts = zip(order, value.chunk(2), strict=True)
            split |= {key.replace(".s6.", f".{name}."): part for name, part in parts}
        else:
            split[key] = value
    return split


OFFICIAL_MLP_NAMES = (
    (r"\.convFFN\.linear(\d)\.", r".mlp.fc\1."),
    (r"\.convFFN\.dwc\.", ".mlp.conv."),
)
OFFICIAL_SCAN_NAMES = (
    (r"\.scan\.conv2d_b1\.", ".scan.half_conv."),
    (r"\.scan\.se\.fc\.0\.", ".scan.fc1."),
    (r"\.scan\.se\.fc\.2\.", ".scan.fc2."),
)


def from_official_kwargs(forward_type: str = "v2", **official) -> dict:
    """Arguments of `MSVMamba` for those of the authors' two `VSSM`, with their defaults.

    Args:
        forward_type: "v2" on their master branch; "vms", or "vms_noz" without a gate, on branch v2.
        **official: the other arguments.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    gate = choose("forward_type", forward_type, {"v2": None, "vms": True, "vms_noz": False})
    return _first_arguments(**official) if gate is None else _v3_arguments(gate, **official)


def _first_arguments(
    *,
    ssm_ratio: float = 2.0,
    ssm_rank_ratio: float = 2.0,
    ssm_simple_init: bool = False,
    mlp_ratio: float = 4.0,
    norm_layer: str = "LN",
    sscore_type: str = "None",
    add_conv: bool = True,
    add_se: bool = False,
    ms_fusion: str | None = None,
    up_sample: str = "interpolate",
    convFFN: bool = False,
    sep_norm: bool = False,
    ms_stage: Sequence[int] = (),
    ms_split: Sequence[int] = (),
    ffn_dropout: float = 0.2,
    **vssm,
) -> dict:
    """Arguments for those of the master branch."""
    refuse_unpublished(
        ssm_ratio=(ssm_ratio, 2.0),
        ssm_rank_ratio=(ssm_rank_ratio, 2.0),
        ssm_simple_init=(ssm_simple_init, False),
        mlp_ratio=(mlp_ratio, 0.0),
        norm_layer=(norm_layer.lower(), "ln"),
        sscore_type=(sscore_type, "multiscale_4scan_12"),
        add_conv=(add_conv, True),
        add_se=(add_se, True),
        ms_fusion=(ms_fusion, None),
        up_sample=(up_sample, "interpolate"),
        convFFN=(convFFN, True),
        sep_norm=(sep_norm, False),
        ms_stage=(tuple(ms_stage), (0, 1, 2, 3)),
        ms_split=(tuple(ms_split), (1, 3)),
        ffn_dropout=(ffn_dropout, 0.0),
    )
    return _vssm_arguments(ssm_ratio=ssm_ratio, **vssm) | FIRST


def _v3_arguments(
    gate: bool,
    *,
    mlp_ratio: float = 4.0,
    norm_layer: str = "LN",
    pre_norm: bool = False,
    add_se: bool = False,
    convffn: bool = False,
    conv_ffn_ratio: float = 2,
    axis_stage: Sequence[int] = (),
    num_heads: Sequence[int] = (),
    full_res_index: int = 1,
    **vssm,
) -> dict:
    """Arguments for those of branch v2. mlp_ratio, pre_norm and num_heads change nothing there."""
    refuse_unpublished(
        norm_layer=(norm_layer.lower(), "ln2d"),
        add_se=(add_se, True),
        convffn=(convffn, True),
        axis_stage=(tuple(axis_stage), ()),
        full_res_index=(full_res_index, 1),
    )
    return _vssm_arguments(**vssm) | {"gate": gate, "mlp_ratio": conv_ffn_ratio}


def _vssm_arguments(**vssm) -> dict:
    """Arguments for those that VMamba's class has too."""
    kwargs = vmamba.from_official_kwargs(**vssm)
    refuse_unpublished(ssm_conv_bias=(kwargs.pop("conv_bias"), True))
    return kwargs


# What all models of the first release have.
FIRST = {
    "expand": 2.0,
    "gate": True,
    "norm_visits": True,
    "upsample": "bilinear",
    "mlp_ratio": 2.0,
    "post_norm": False,
}


def _cfg(**kwargs) -> dict:
    return imagenet_cfg(
        license="unstated",
        paper_ids="arXiv:2405.14174",
        paper_name="Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model",
        origin_url="https://github.com/YuHengsss/MSVMamba",
        **{"first_conv": "stem.conv1", **kwargs},
    )


def _cfg_first(folder: str) -> dict:
    return _cfg(first_conv="stem.conv", **on_google_drive(folder, kind="folder"))


def _cfg_v3(file: str) -> dict:
    return _cfg(hf_hub_id="YuhengSSS/MSVMamba", hf_hub_filename=file)


default_cfgs = generate_default_cfgs(
    {
        "msvmamba_nano.in1k": _cfg_first("1J41w3ApitQhp2O3wHmJoOs4U032uqebK"),
        "msvmamba_micro.in1k": _cfg_first("1jfl2GmuKcUB8sPwRlyHK_wT0MjqgljYk"),
        "msvmamba_tiny.in1k": _cfg_first("1ddNWk89ohcxxMuVEaJ2Y5A6xeBKgA7lU"),
        "msvmamba_v3_tiny.in1k": _cfg_v3("msvmambav3_tiny_224.pth"),
        "msvmamba_v3_small.in1k": _cfg_v3("msvmambav3_small_224.pth"),
        "msvmamba_v3_base.in1k": _cfg_v3("msvmambav3_base_224.pth"),
        "test_msvmamba.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
        "test_msvmamba_v3.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


def _dims(dim: int) -> tuple[int, ...]:
    return tuple(dim * 2**i for i in range(4))


def _first(depth: int, dim: int) -> dict:
    """The first release: gated, normalised at every visit, patch stem and merging."""
    depths = (1, 2, depth, 2)
    return {"depths": depths, "dims": _dims(dim), "stem": "patch", "downsample": "merge", **FIRST}


@register_model
def msvmamba_nano(pretrained: bool = False, **kwargs) -> MSVMamba:
    """MSVMamba-N: 6.9 M parameters, 77.3 % top-1 as published."""
    return build(MSVMamba, "msvmamba_nano", pretrained, **{**_first(5, 48), **kwargs})


@register_model
def msvmamba_micro(pretrained: bool = False, **kwargs) -> MSVMamba:
    """MSVMamba-M: 11.9 M parameters, 79.8 % top-1 as published."""
    return build(MSVMamba, "msvmamba_micro", pretrained, **{**_first(5, 64), **kwargs})


@register_model
def msvmamba_tiny(pretrained: bool = False, **kwargs) -> MSVMamba:
    """MSVMamba-T: 33.0 M parameters, 82.8 % top-1 as published."""
    return build(MSVMamba, "msvmamba_tiny", pretrained, **{**_first(9, 96), **kwargs})


@register_model
def msvmamba_v3_tiny(pretrained: bool = False, **kwargs) -> MSVMamba:
    """MSVMamba-T, third version: 32.3 M parameters, 83.0 % top-1 as published."""
    return build(MSVMamba, "msvmamba_v3_tiny", pretrained, **kwargs)


@register_model
def msvmamba_v3_small(pretrained: bool = False, **kwargs) -> MSVMamba:
    """MSVMamba-S, third version: 50.2 M parameters, 84.1 % top-1 as published."""
    model = {"depths": (2, 3, 20, 2)}
    return build(MSVMamba, "msvmamba_v3_small", pretrained, **{**model, **kwargs})


@register_model
def msvmamba_v3_base(pretrained: bool = False, **kwargs) -> MSVMamba:
    """MSVMamba-B, third version: 90.6 M parameters, 84.4 % top-1 as published."""
    model = {"depths": (2, 4, 18, 2), "dims": _dims(128), "gate": True}
    return build(MSVMamba, "msvmamba_v3_base", pretrained, **{**model, **kwargs})


@register_model
def test_msvmamba(pretrained: bool = False, **kwargs) -> MSVMamba:
    """The smallest MSVMamba, for tests; its stem takes the whole of any image."""
    model = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "downsample": "merge", **FIRST}
    return build(MSVMamba, "test_msvmamba", pretrained, **{**model, **kwargs})


@register_model
def test_msvmamba_v3(pretrained: bool = False, **kwargs) -> MSVMamba:
    """The smallest MSVMamba of the third version, for tests."""
    model = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 64), "gate": True}
    return build(MSVMamba, "test_msvmamba_v3", pretrained, **{**model, **kwargs})
