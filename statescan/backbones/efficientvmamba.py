"""EfficientVMamba: atrous scans beside convolutions, then inverted residuals.

Paper: Pei et al., EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba, AAAI 2025,
arXiv 2403.09977.
Official code: https://github.com/TerryPei/EfficientVMamba (Apache-2.0 as its README says; it has no
licence file). Official weights: https://huggingface.co/TerryPei.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import Tensor, nn

from ..layers import DOWNSAMPLES, STEMS, BiAttention
from ..scans import Route, Scan2d
from ..scans.routes import Atrous, Transpose
from . import vmamba
from ._build import build, imagenet_cfg
from ._checkpoint import rename
from ._official import refuse_unpublished
from ._pyramid import Pyramid, block_stages

__all__ = ["AtrousBlock", "EfficientVMamba", "InvertedBlock"]

# The four phases of a grid of step 2, padded so that all have the same length.
PHASES: tuple[Route, ...] = (
    Atrous(2, (0, 0), pad=True),
    Transpose(Atrous(2, (0, 1), pad=True)),
    Atrous(2, (0, 1), pad=True),
    Transpose(Atrous(2, (1, 1), pad=True)),
)


def channels_first(x: Tensor) -> Tensor:
    """The map x (B, H, W, C) as (B, C, H, W), in memory as it was.

    But for torch.export, which cannot follow symbolic sizes through a convolution and a batch norm
    of other memory formats.
    """
    x = x.permute(0, 3, 1, 2)
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return x.contiguous() if exporting else x


class AtrousBlock(nn.Module):
    """Pre-norm 2-D scan beside a 3x3 convolution, with one channel attention for both.

    (B, H, W, C) → (B, H, W, C).

    Args:
        dim: channels C.
        drop_path: probability that the residual branches are left out for a sample.
        **scan: arguments of `Scan2d`.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0, **scan):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.scan = Scan2d(dim, **scan)
        self.conv = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1),
        )
        self.attention = BiAttention(dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        n = self.norm1(x)
        convolved = self.conv(channels_first(n)).permute(0, 2, 3, 1)
        mixed = self.attention(self.scan(n)) + self.attention(convolved)
        return x + self.drop_path(mixed)


class InvertedBlock(InvertedResidual):
    """MobileNetV2's inverted residual with squeeze-and-excitation, on (B, H, W, C).

    Args:
        dim: channels C.
        drop_path: probability that the residual branch is left out for a sample.

    Source: MobileNetV2, arXiv 1801.04381; MobileNetV3, arXiv 1905.02244.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0):
        super().__init__(
            dim,
            dim,
            exp_ratio=4.0,
            se_layer=partial(SqueezeExcite, rd_ratio=0.125, rd_round_fn=int),
            drop_path_rate=drop_path,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens and channels of x (B, H, W, C)."""
        return super().forward(channels_first(x)).permute(0, 2, 3, 1)


class EfficientVMamba(Pyramid):
    """EfficientVMamba image model, any image size: two stages of scans, two of inverted residuals.

    Args:
        in_chans: channels of the image.
        depths: blocks a stage.
        dims: channels a stage.
        d_state: states a channel.
        expand: inner width of the scan as a multiple of the channels.
        dt_rank: rank of dt; "auto" is ceil(channels / 16).
        routes: scan routes, as in `Scan2d`; by default the four phases of an atrous scan.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        device: where the parameters are made.
        dtype: type of the parameters.
        **pyramid: num_classes, global_pool, drop_rate and out_norms, as in `Pyramid`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        depths: Sequence[int] = (2, 2, 4, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        routes: str | Sequence[str | Route] = PHASES,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **pyramid,
    ):
        def block(stage: int, dim: int, drop_path: float) -> nn.Module:
            if stage >= 2:
                return InvertedBlock(dim, drop_path=drop_path)
            return AtrousBlock(
                dim,
                drop_path=drop_path,
                d_state=d_state,
                expand=expand,
                dt_rank=dt_rank,
                routes=routes,
                gate=True,
                conv_bias=True,
            )

        with torch.device(device or torch.get_default_device()):
            super().__init__(
                STEMS["patch"](in_chans, dims[0]),
                block_stages(block, DOWNSAMPLES["merge"], depths, dims, drop_path_rate),
                dims,
                in_chans=in_chans,
                **pyramid,
            )
            self.init_weights()
        self.to(dtype=dtype)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Takes the out-norms of detection backbones too. Nothing is dropped.
    """
    return vmamba.checkpoint_filter_fn(rename(state_dict, OWN_NAMES), model)


OWN_NAMES = (
    # Stages of inverted residuals are one list: a permutation, the blocks, one more, downsampling.
    (r"^layers\.(\d+)\.\d+\.(reduction|norm)\.", r"layers.\1.downsample.\2."),
    (r"^layers\.(\d+)\.(\d+)\.", lambda m: f"layers.{m[1]}.blocks.{int(m[2]) - 1}."),
    (r"\.conv_(pw|dw|pw2)\.0\.", r".conv_\1."),
    (r"\.conv_pw\.1\.", ".bn1."),
    (r"\.conv_dw\.1\.", ".bn2."),
    (r"\.conv_pw2\.1\.", ".bn3."),
    (r"\.conv_pw2\.", ".conv_pwl."),
    (r"\.conv_branch\.", ".conv."),
    (r"\.se\.norm\.", ".attention.norm."),
    (r"\.se\.global_reduce\.", ".attention.fc1."),
    (r"\.se\.channel_select\.", ".attention.fc2."),
)


def from_official_kwargs(
    patch_size: int = 4,
    in_chans: int = 3,
    num_classes: int = 1000,
    depths: Sequence[int] = (2, 2, 9, 2),
    dims: int | Sequence[int] = (96, 192, 384, 768),
    d_state: int = 16,
    dt_rank: int | str = "auto",
    ssm_ratio: float = 2.0,
    attn_drop_rate: float = 0.0,
    shared_ssm: bool = False,
    softmax_version: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    mlp_ratio: float = 4.0,
    patch_norm: bool = True,
    norm_layer: type[nn.Module] = nn.LayerNorm,
    downsample_version: str = "v2",
    use_checkpoint: bool = False,
    step_size: int = 2,
    window_size: int | None = None,
) -> dict:
    """Arguments of `EfficientVMamba` for those of the authors' class, with its defaults.

    The authors' model ignores d_state, dt_rank and window_size: it has 16 states and the rank
    "auto" whatever they say.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(
        patch_size=(patch_size, 4),
        attn_drop_rate=(attn_drop_rate, 0.0),
        shared_ssm=(shared_ssm, False),
        softmax_version=(softmax_version, False),
        drop_rate=(drop_rate, 0.0),
        mlp_ratio=(mlp_ratio, 0.0),
        patch_norm=(patch_norm, True),
        norm_layer=(norm_layer, nn.LayerNorm),
        downsample_version=(downsample_version, "v1"),
        use_checkpoint=(use_checkpoint, False),  # see EfficientVMamba.set_grad_checkpointing
        step_size=(step_size, 2),
    )
    return {
        "in_chans": in_chans,
        "num_classes": num_classes,
        "depths": depths,
        "dims": [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else dims,
        "expand": ssm_ratio,
        "drop_path_rate": drop_path_rate,
    }


def _cfg(size: str = "", **kwargs) -> dict:
    return imagenet_cfg(
        hf_hub_id=f"TerryPei/EfficientVMamba-{size.title()}" if size else None,
        hf_hub_filename=f"efficient_vmamba_{size}.ckpt" if size else None,
        first_conv="stem.conv",
        license="apache-2.0",
        paper_ids="arXiv:2403.09977",
        paper_name="EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba",
        origin_url="https://github.com/TerryPei/EfficientVMamba",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "efficientvmamba_tiny.in1k": _cfg("tiny"),
        "efficientvmamba_small.in1k": _cfg("small"),
        "efficientvmamba_base.in1k": _cfg("base"),
        "test_efficientvmamba.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


def _dims(dim: int) -> tuple[int, ...]:
    return tuple(dim * 2**i for i in range(4))


@register_model
def efficientvmamba_tiny(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """EfficientVMamba-T: 6.5 M parameters, 76.5 % top-1 as published."""
    model = {"depths": (2, 2, 4, 2), "dims": _dims(48)}
    return build(EfficientVMamba, "efficientvmamba_tiny", pretrained, **{**model, **kwargs})


@register_model
def efficientvmamba_small(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """EfficientVMamba-S: 11.3 M parameters, 78.7 % top-1 as published."""
    model = {"depths": (2, 2, 4, 2), "dims": _dims(64)}
    return build(EfficientVMamba, "efficientvmamba_small", pretrained, **{**model, **kwargs})


@register_model
def efficientvmamba_base(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """EfficientVMamba-B: 33.7 M parameters, 81.8 % top-1 as published."""
    model = {"depths": (2, 2, 9, 2), "dims": _dims(96)}
    return build(EfficientVMamba, "efficientvmamba_base", pretrained, **{**model, **kwargs})


@register_model
def test_efficientvmamba(pretrained: bool = False, **kwargs) -> EfficientVMamba:
    """The smallest EfficientVMamba, for tests."""
    model = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    return build(EfficientVMamba, "test_efficientvmamba", pretrained, **{**model, **kwargs})
