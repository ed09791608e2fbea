"""PlainMamba: one resolution, and scans whose every step is to a neighbour and knows which.

Paper: Yang et al., PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition, BMVC 2024,
arXiv 2403.17695.
Official code: https://github.com/ChenhongyiYang/PlainMamba (Apache-2.0).
Official weights: https://huggingface.co/ChenhongyiYang/PlainMamba.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, DropPath, calculate_drop_path_rates, to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..kernels.linear import Linear, linear
from ..layers import PatchEmbed, patch_grid
from ..scans import Route, SelectiveParameters
from ..scans.routes import resolve_routes
from ..scans.steps import along_routes, scan_steps
from ._build import build, imagenet_cfg
from ._checkpoint import rename
from ._isotropic import Isotropic
from ._official import choose, refuse_unpublished

__all__ = ["PlainMamba"]

STEM_WIDTH = 64


def moves(table: Tensor, W: int) -> Tensor:
    """The moves that routes (K, T) make: 0 none, at the start, 1 right, 2 left, 3 up, 4 down.

    A longer step counts as the direction in which it goes further.
    """
    down, right = (place.diff(prepend=place[:, :1]) for place in (table // W, table % W))
    sideways = torch.where(right > 0, 1, torch.where(right < 0, 2, 0))
    upright = torch.where(down < 0, 3, 4)
    return torch.where(right.abs() >= down.abs(), sideways, upright)


class DirectionAwareS6(SelectiveParameters):
    """S6 with one set of parameters for all routes, and an input matrix that knows the last move.

    (B, H, W, C) → (B, H, W, C), for any H and W. Only the input is read along the routes: step t
    takes the step size, input and output matrix of the t-th position in raster order, and the bias
    of the step size counts twice. So the published models were trained.

    Args:
        dim: channels C.
        routes: a name from `ROUTE_SETS`, or a sequence of names and routes.
        d_state: states a channel, N.
        dt_rank: rank R of dt.

    Source: PlainMamba, arXiv 2403.17695, and the official code.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str | Route] = "serpentine",
        d_state: int = 16,
        dt_rank: int = 1,
    ):
        width = dt_rank + 2 * d_state
        super().__init__(
            dim, scans=(1,), width=width, d_state=d_state, dt_rank=dt_rank, merge="sum"
        )
        self.routes = resolve_routes(routes)
        self.direction_B = nn.Parameter(torch.empty(5, d_state))
        nn.init.trunc_normal_(self.direction_B, std=0.02)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mamba's initialisation, with half the bias, since it counts twice."""
        super().reset_parameters()
        self.dt_proj_bias.div_(2)

    def forward(self, x: Tensor) -> Tensor:
        """Scan x (B, H, W, C)."""
        H, W = x.shape[1:3]
        tokens = x.flatten(1, 2)
        projected = F.pad(linear(tokens, self.x_proj_weight[0]), (0, 0, 0, 1))

        def scan(steps: Tensor, table: Tensor) -> Tensor:
            K, T = table.shape
            order = torch.arange(T, device=x.device).clamp_max(H * W)  # zeros after the grid's end
            raster = projected[:, order].unsqueeze(2).expand(-1, -1, K, -1)
            dt, B, C = raster.split((self.dt_rank, self.d_state, self.d_state), dim=-1)
            return scan_steps(
                steps,
                dt,
                self.decay_rates().expand(K, -1, -1),
                B + self.direction_B[moves(table, W).mT],
                C,
                self.D.expand(K, -1),
                table,
                dt_weight=self.dt_proj_weight.expand(K, -1, -1),
                dt_bias=2 * self.dt_proj_bias.expand(K, -1),
            )

        return along_routes(tokens, self.routes, H, W, scan).sum(2).unflatten(1, (H, W))


class PlainMambaMixer(nn.Module):
    """Direction-aware scan as a token mixer: project, convolve, scan, gate, project back.

    (B, H, W, C) → (B, H, W, C), for any H and W.

    Args:
        dim: channels C.
        expand: inner width as a multiple of dim.
        dt_rank: rank of dt; "auto" is ceil(dim / 16).
        **scan: further arguments of `DirectionAwareS6`.
    """

    def __init__(self, dim: int, *, expand: float, dt_rank: int | str, **scan):
        super().__init__()
        inner = int(dim * expand)
        self.in_proj = Linear(dim, inner * 2)
        self.conv = nn.Conv2d(inner, inner, 7, padding=3, groups=inner)
        dt_rank = math.ceil(dim / 16) if dt_rank == "auto" else int(dt_rank)
        self.s6 = DirectionAwareS6(inner, dt_rank=dt_rank, **scan)
        self.out_proj = Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return self.out_proj(self.s6(x) * F.silu(z))


class PlainMambaBlock(nn.Module):
    """Pre-norm token mixer with a residual, then perhaps a depthwise convolution without one.

    Tokens (B, H·W, C) → (B, H·W, C). Arguments beyond these are those of `PlainMambaMixer`.
    """

    def __init__(self, dim: int, *, conv: bool = False, drop_path: float = 0.0, **mixer):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mixer = PlainMambaMixer(dim, **mixer)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.conv = ConvNormAct(dim, dim, 3, groups=dim, act_layer=nn.GELU) if conv else None

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Mix the tokens of x (B, H·W, C)."""
        x = x.unflatten(1, (H, W))
        x = x + self.drop_path(self.mixer(self.norm(x)))
        if self.conv is not None:
            x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x.flatten(1, 2)


class PlainMambaStem(nn.Module):
    """Convolutions at half the resolution, then patches: (B, 3, H, W) → (B, ⌈H/P⌉, ⌈W/P⌉, C).

    Args:
        in_chans: channels of the image.
        dim: channels C.
        patch_size: side of a patch in the image, P.
        convs: 3x3 convolutions after the first one of 7x7.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int, convs: int):
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(in_chans, STEM_WIDTH, 7, stride=2),
            *(ConvNormAct(STEM_WIDTH, STEM_WIDTH, 3) for _ in range(convs)),
        )
        self.patches = PatchEmbed(STEM_WIDTH, dim, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        return self.patches(self.convs(x))


class PlainMamba(Isotropic):
    """PlainMamba image model, any image size.

    Args:
        img_size: side or sides of the images that position embeddings are made for.
        patch_size: side of a patch, even.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        depth: blocks.
        dim: channels.
        stem_convs: 3x3 convolutions of the stem.
        conv_blocks: blocks that end in a depthwise convolution.
        d_state: states a channel.
        expand: inner width of the scan as a multiple of the channels.
        dt_rank: rank of dt; "auto" is ceil(channels / 16).
        routes: scan routes, as in `S6`.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        out_norms: blocks whose feature map gets a LayerNorm of its own, with them the last block;
            True for all.
        device: where the parameters are made.
        dtype: type of the parameters.
    """

    no_decay = (*Isotropic.no_decay, "direction_B")

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depth: int = 24,
        dim: int = 192,
        stem_convs: int = 1,
        conv_blocks: Sequence[int] = (),
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        routes: str | Sequence[str | Route] = "serpentine",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if patch_size % 2:
            raise ValueError(f"patch_size is {patch_size}, expected an even number")
        scan = {"d_state": d_state, "expand": expand, "dt_rank": dt_rank, "routes": routes}
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        if out_norms and not isinstance(out_norms, bool):
            out_norms = sorted({*out_norms, depth - 1})
        with torch.device(device or torch.get_default_device()):
            super().__init__(
                PlainMambaStem(in_chans, dim, patch_size, stem_convs),
                [
                    PlainMambaBlock(dim, conv=i in conv_blocks, drop_path=rate, **scan)
                    for i, rate in enumerate(rates)
                ],
                nn.LayerNorm(dim, eps=1e-6),
                dim,
                reduction=patch_size,
                grid_size=patch_grid(to_2tuple(img_size), patch_size, patch_size),
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                drop_rate=drop_rate,
                out_norms=out_norms,
                out_norm_eps=1e-6,
            )
            self.init_weights()
        self.to(dtype=dtype)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    The last norm is the last block's out-norm too, where the model has that. Nothing is dropped.
    """
    if not any(key.startswith(("backbone.", "patch_embed.", "layers.")) for key in state_dict):
        return dict(state_dict)
    weights = rename(state_dict, OFFICIAL_NAMES)
    last = f"out_norms.{len(model.feature_info) - 1}"
    for name in ("weight", "bias"):
        if f"norm.{name}" in weights and last in dict(model.named_modules()):
            weights.setdefault(f"{last}.{name}", weights[f"norm.{name}"])
    return {
        k: v.unsqueeze(0) if ".s6." in k and not k.endswith("direction_B") else v
        for k, v in weights.items()
    }


OFFICIAL_NAMES = (
    (r"^backbone\.", ""),
    (r"^patch_embed\.stem\.0\.", "stem.convs.0.conv."),
    (r"^patch_embed\.stem\.1\.", "stem.convs.0.bn."),
    (
        r"^patch_embed\.convs\.(\d+)\.",
        lambda m: f"stem.convs.{int(m[1]) // 3 + 1}.{('conv', 'bn')[int(m[1]) % 3]}.",
    ),
    (r"^patch_embed\.projection\.", "stem.patches.proj."),
    (r"^norm_layer(\d+)\.", r"out_norms.\1."),
    (r"^ln1\.", "norm."),
    (r"^layers\.", "blocks."),
    (r"\.dw\.0\.", ".conv.conv."),
    (r"\.dw\.1\.", ".conv.bn."),
    (r"\.mamba\.conv2d\.", ".mixer.conv."),
    (r"\.mamba\.(in_proj|out_proj)\.", r".mixer.\1."),
    (r"\.mamba\.(x_proj|dt_proj)\.(weight|bias)$", r".mixer.s6.\1_\2"),
    (r"\.mamba\.direction_Bs$", ".mixer.s6.direction_B"),
    (r"\.mamba\.(A_log|D)$", r".mixer.s6.\1"),
)


ARCHS = {
    "L1": {"dim": 192, "depth": 24, "stem_convs": 1, "conv_blocks": (0,)},
    "L2": {"dim": 384, "depth": 24, "stem_convs": 2},
    "L3": {"dim": 448, "depth": 36, "stem_convs": 2},
}


def from_official_kwargs(
    arch: str | None = None,
    img_size: int | Sequence[int] = 224,
    in_channels: int = 3,
    num_classes: int = 1000,
    patch_size: int = 16,
    embed_dims: int = 192,
    num_layers: int = 24,
    num_convs_patch_embed: int = 1,
    layers_with_dwconv: Sequence[int] = (),
    layer_cfgs: Mapping = {},
    with_pos_embed: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    norm_cfg: Mapping = {"type": "LN", "eps": 1e-6},
    final_norm: bool = True,
    interpolate_mode: str = "bicubic",
    out_indices: Sequence[int] | None = None,
) -> dict:
    """Arguments of `PlainMamba` for those of the authors' class of that name and its classifier.

    `arch` stands for the sizes, which without it are given one by one. Which maps are taken
    (`out_indices`) is an argument of `forward_intermediates` here.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    mamba = layer_cfgs.get("mamba_cfg", {})
    fixed = {
        "with_pos_embed": (with_pos_embed, True),
        "drop_rate": (drop_rate, 0.0),
        "norm_cfg": (tuple(sorted(norm_cfg.items())), (("eps", 1e-6), ("type", "LN"))),
        "final_norm": (final_norm, True),
        "interpolate_mode": (interpolate_mode, "bicubic"),
        "use_rms_norm": (layer_cfgs.get("use_rms_norm", False), False),
        "conv_size": (mamba.get("conv_size", 7), 7),
        "conv_bias": (mamba.get("conv_bias", True), True),
        "bias": (mamba.get("bias", True), True),
    }
    refuse_unpublished(**fixed)
    sizes = {
        "dim": embed_dims,
        "depth": num_layers,
        "stem_convs": num_convs_patch_embed,
        "conv_blocks": layers_with_dwconv,
    }
    return {
        "img_size": img_size,
        "patch_size": patch_size,
        "in_chans": in_channels,
        "num_classes": num_classes,
        **(choose("arch", arch, ARCHS) if arch else sizes),
        "d_state": mamba.get("d_state", 16),
        "expand": mamba.get("expand", 2),
        "drop_path_rate": drop_path_rate,
    }


def _cfg(file: str = "", **kwargs) -> dict:
    weights = "https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main"
    return imagenet_cfg(
        url=f"{weights}/{file}" if file else "",
        pool_size=None,
        first_conv="stem.convs.0.conv",
        license="apache-2.0",
        paper_ids="arXiv:2403.17695",
        paper_name="PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition",
        origin_url="https://github.com/ChenhongyiYang/PlainMamba",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "plainmamba_l1.in1k": _cfg("l1.pth"),
        "plainmamba_l2.in1k": _cfg("l2.pth"),
        "plainmamba_l3.in1k": _cfg("l3.pth"),
        "test_plainmamba.untrained": _cfg(),
    }
)


@register_model
def plainmamba_l1(pretrained: bool = False, **kwargs) -> PlainMamba:
    """PlainMamba-L1: 7.6 M parameters, 77.9 % top-1 as published."""
    return build(PlainMamba, "plainmamba_l1", pretrained, **{**ARCHS["L1"], **kwargs})


@register_model
def plainmamba_l2(pretrained: bool = False, **kwargs) -> PlainMamba:
    """PlainMamba-L2: 26.1 M parameters, 81.6 % top-1 as published."""
    return build(PlainMamba, "plainmamba_l2", pretrained, **{**ARCHS["L2"], **kwargs})


@register_model
def plainmamba_l3(pretrained: bool = False, **kwargs) -> PlainMamba:
    """PlainMamba-L3: 51.0 M parameters, 82.3 % top-1 as published."""
    return build(PlainMamba, "plainmamba_l3", pretrained, **{**ARCHS["L3"], **kwargs})


@register_model
def test_plainmamba(pretrained: bool = False, **kwargs) -> PlainMamba:
    """The smallest PlainMamba, for tests."""
    sizes = {"img_size": 64, "patch_size": 8, "depth": 4, "dim": 16, "conv_blocks": (0,)}
    return build(PlainMamba, "test_plainmamba", pretrained, **{**sizes, **kwargs})
