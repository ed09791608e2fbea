"""VSSD: non-causal state-space duality, where every position reads one state of the whole image.

Paper: Shi et al., VSSD: Vision Mamba with Non-Causal State Space Duality, ICCV 2025, arXiv
2407.18559 (its first version, which the weights are of).
Official code: https://github.com/YuHengsss/VSSD (no licence file).
Official weights: https://huggingface.co/YuhengSSS/VSSD.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..kernels import noncausal_ssd
from ..kernels.linear import Linear
from ._build import build, imagenet_cfg
from ._mlla import MllaPyramid
from ._official import choose, refuse_unpublished

__all__ = ["VSSD", "NonCausalSSD"]


class UpcastLayerNorm(nn.LayerNorm):
    """LayerNorm whose input may be of higher precision than its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class NonCausalSSD(nn.Module):
    """Non-causal SSD as a token mixer: project, convolve, sum into one state, read, gate, project.

    (B, H, W, C) → (B, H, W, C), for any H and W. The gate has no activation.

    Args:
        dim: channels C.
        heads: heads, each with a step size, decay rate and skip of its own.
        d_state: states a channel, N.
        expand: inner width as a multiple of dim.

    Source: VSSD, arXiv 2407.18559, section 3.2.
    """

    def __init__(self, dim: int, *, heads: int, d_state: int = 64, expand: float = 2.0):
        super().__init__()
        inner = int(dim * expand)
        if inner % heads:
            raise ValueError(f"heads is {heads}, which does not divide the {inner} inner channels")
        self.sizes = (inner, inner + 2 * d_state, heads)
        self.in_proj = Linear(dim, sum(self.sizes), bias=False)
        mixed = self.sizes[1]
        self.conv = nn.Conv2d(mixed, mixed, 3, padding=1, groups=mixed)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm = UpcastLayerNorm(inner)
        self.out_proj = Linear(inner, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1) -> None:
        """Mamba-2's initialisation: -A uniform in [1, 16], dt log-uniform in [dt_min, dt_max]."""
        dt = self.dt_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_()
        dt.add_(torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log.uniform_(1, 16).log_()
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        z, xBC, dt = self.in_proj(x).split(self.sizes, dim=-1)
        xBC = F.silu(self.conv(xBC.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        inner, mixed, heads = self.sizes
        d_state = (mixed - inner) // 2
        u, B, C = xBC.flatten(1, 2).split((inner, d_state, d_state), dim=-1)
        if u.dtype == torch.float16:
            u = u.float()  # up to the norm: a sum over all positions leaves float16's range
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        y = noncausal_ssd(
            u.unflatten(-1, (heads, -1)), dt.flatten(1, 2), A, B, C, self.D, dt_bias=self.dt_bias
        )
        y = self.norm(y.flatten(2)).to(z.dtype)
        return self.out_proj(y.view_as(z) * z)


class MapAttention(Attention):
    """Softmax attention between all positions of a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        return super().forward(x.flatten(1, 2)).view_as(x)


class VSSD(MllaPyramid):
    """VSSD image model, any image size.

    Args:
        depths: blocks a stage.
        dims: channels a stage.
        heads: heads a stage.
        mixers: token mixer a stage, "ssd" or "attention".
        d_state: states a channel.
        expand: inner width of non-causal SSD as a multiple of the channels.
        **pyramid: in_chans, num_classes, global_pool, mlp_ratio, drop_rate, drop_path_rate,
            out_norms, device and dtype, as in `MllaPyramid`.
    """

    OFFICIAL_BLOCK_NAMES = (
        (r"\.attn\.", ".mixer."),
        (r"\.mixer\.conv2d\.", ".mixer.conv."),
        (r"\.mixer\.to_qkv\.", ".mixer.qkv."),
        (r"\.mixer\.to_out\.", ".mixer.proj."),
    )

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 4, 8, 4),
        dims: Sequence[int] = (64, 128, 256, 512),
        heads: Sequence[int] = (2, 4, 8, 16),
        mixers: Sequence[str] = ("ssd", "ssd", "ssd", "attention"),
        d_state: int = 64,
        expand: float = 2.0,
        **pyramid,
    ):
        kinds = [choose("mixers", name, {"ssd": 0, "attention": 1}) for name in mixers]

        def mixer(stage: int, dim: int) -> nn.Module:
            if kinds[stage]:
                return MapAttention(dim, heads[stage])
            return NonCausalSSD(dim, heads=heads[stage], d_state=d_state, expand=expand)

        super().__init__(mixer, depths, dims, **pyramid)


checkpoint_filter_fn = VSSD.checkpoint_filter_fn


def from_official_kwargs(
    img_size: int = 224,
    patch_size: int = 4,
    in_chans: int = 3,
    num_classes: int = 1000,
    embed_dim: int = 64,
    depths: Sequence[int] = (2, 4, 12, 4),
    num_heads: Sequence[int] = (2, 4, 8, 16),
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.2,
    use_checkpoint: bool = False,
    ssd_expansion: float = 2,
    ssd_ngroups: int = 1,
    ssd_chunk_size: int = 256,
    linear_attn_duality: bool = False,
    d_state: int = 64,
    simple_downsample: bool = False,
    simple_patch_embed: bool = False,
    attn_types: Sequence[str] = ("mamba2",) * 4,
    bidirection: bool = False,
    lepe: bool = False,
    ssd_positve_dA: bool = True,
) -> dict:
    """Arguments of `VSSD` for those of the authors' `VMAMBA2`, with that constructor's defaults.

    The authors' non-causal model computes the same for every img_size, qkv_bias and
    ssd_chunk_size.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(
        patch_size=(patch_size, 4),
        drop_rate=(drop_rate, 0.0),
        use_checkpoint=(use_checkpoint, False),  # see VSSD.set_grad_checkpointing
        ssd_ngroups=(ssd_ngroups, 1),
        linear_attn_duality=(linear_attn_duality, True),
        simple_downsample=(simple_downsample, False),
        simple_patch_embed=(simple_patch_embed, False),
        bidirection=(bidirection, False),
        lepe=(lepe, False),
        ssd_positve_dA=(ssd_positve_dA, True),
    )
    return {
        "in_chans": in_chans,
        "num_classes": num_classes,
        "depths": depths,
        "dims": [embed_dim * 2**i for i in range(len(depths))],
        "heads": num_heads,
        "mixers": [choose("attn_types", name, OFFICIAL_MIXERS) for name in attn_types],
        "d_state": d_state,
        "expand": ssd_expansion,
        "mlp_ratio": mlp_ratio,
        "drop_path_rate": drop_path_rate,
    }


OFFICIAL_MIXERS = {"mamba2": "ssd", "standard": "attention"}


def _cfg(file: str = "", **kwargs) -> dict:
    return imagenet_cfg(
        hf_hub_id="YuhengSSS/VSSD" if file else None,
        hf_hub_filename=file or None,
        first_conv="stem.conv1.conv",
        license="unstated",
        paper_ids="arXiv:2407.18559",
        paper_name="VSSD: Vision Mamba with Non-Causal State Space Duality",
        origin_url="https://github.com/YuHengsss/VSSD",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "vssd_micro.in1k": _cfg("vssd_micro_best.pth"),
        "vssd_tiny.in1k": _cfg("vssd_tiny_best_ema.pth"),
        "vssd_tiny.mesa_in1k": _cfg("vssd_tiny_e300_with_mesa.pth"),
        "vssd_small.in1k": _cfg("vssd_small_best_ema.pth"),
        "vssd_small.mesa_in1k": _cfg("vssd_small_e300_with_mesa.pth"),
        "vssd_base.in1k": _cfg("vssd_base_best_ema.pth"),
        "vssd_base.mesa_in1k": _cfg("vssd_base_e300_with_mesa.pth"),
        "test_vssd.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


def _sizes(dim: int, heads: int, depths: tuple[int, ...]) -> dict:
    """Channels and heads that double from stage to stage."""
    return {
        "depths": depths,
        "dims": tuple(dim * 2**i for i in range(4)),
        "heads": tuple(heads * 2**i for i in range(4)),
    }


@register_model
def vssd_micro(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-M: 13.5 M parameters, 82.5 % top-1 as published."""
    model = _sizes(48, 2, (2, 2, 8, 4)) | {"d_state": 48}
    return build(VSSD, "vssd_micro", pretrained, **{**model, **kwargs})


@register_model
def vssd_tiny(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-T: 24.3 M parameters, 83.6 % top-1 as published, 84.1 % trained with MESA."""
    return build(VSSD, "vssd_tiny", pretrained, **{**_sizes(64, 2, (2, 4, 8, 4)), **kwargs})


@register_model
def vssd_small(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-S: 40.1 M parameters, 84.1 % top-1 as published, 84.5 % trained with MESA."""
    return build(VSSD, "vssd_small", pretrained, **{**_sizes(64, 2, (3, 4, 21, 5)), **kwargs})


@register_model
def vssd_base(pretrained: bool = False, **kwargs) -> VSSD:
    """VSSD-B: 88.8 M parameters, 84.7 % top-1 as published, 85.4 % trained with MESA."""
    return build(VSSD, "vssd_base", pretrained, **{**_sizes(96, 3, (3, 4, 21, 5)), **kwargs})


@register_model
def test_vssd(pretrained: bool = False, **kwargs) -> VSSD:
    """The smallest VSSD, for tests."""
    model = _sizes(8, 2, (1, 1, 1, 1)) | {"d_state": 4}
    return build(VSSD, "test_vssd", pretrained, **{**model, **kwargs})
