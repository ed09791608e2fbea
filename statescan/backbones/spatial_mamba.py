"""Spatial-Mamba: one raster scan whose states are fused with their neighbours'.

Paper: Xiao et al., Spatial-Mamba: Effective Visual State Space Models via Structure-aware State
Fusion, ICLR 2025, arXiv 2410.15091.
Official code and weights: https://github.com/EdwardChasel/Spatial-Mamba (Apache-2.0).
"""

from collections.abc import Sequence

from timm.models import generate_default_cfgs, register_model

from ..scans import Route, Scan2d
from ._build import build, imagenet_cfg, on_google_drive
from ._checkpoint import scan_names
from ._mlla import MllaPyramid
from ._official import refuse_unpublished

__all__ = ["SpatialMamba"]


class SpatialMamba(MllaPyramid):
    """Spatial-Mamba image model, any image size.

    Args:
        depths: blocks a stage.
        dims: channels a stage.
        d_state: states a channel.
        routes: scan routes, as in `Scan2d`.
        state_fusion: dilations of the kernels that fuse neighbouring states; empty for no fusion.
        **pyramid: in_chans, num_classes, global_pool, mlp_ratio, drop_rate, drop_path_rate,
            out_norms, device and dtype, as in `MllaPyramid`.
    """

    OFFICIAL_BLOCK_NAMES = (
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.self_attention\.", ".mixer."),
        *scan_names(r"\.mixer"),
        (r"\.state_fusion\.alpha$", ".s6.fusion.alpha"),
        (r"\.state_fusion\.kernel_3$", ".s6.fusion.kernels.0"),
        (r"\.state_fusion\.kernel_3_(\d)$", r".s6.fusion.kernels.\1"),
    )

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 4, 8, 4),
        dims: Sequence[int] = (64, 128, 256, 512),
        d_state: int = 1,
        routes: str | Sequence[str | Route] = "raster",
        state_fusion: Sequence[int] = (1, 3, 5),
        **pyramid,
    ):
        def scan(stage: int, dim: int) -> Scan2d:
            return Scan2d(
                dim,
                routes=routes,
                d_state=d_state,
                expand=2.0,
                conv_bias=True,
                gate=True,
                state_fusion=state_fusion,
            )

        super().__init__(scan, depths, dims, **pyramid)


checkpoint_filter_fn = SpatialMamba.checkpoint_filter_fn


def from_official_kwargs(
    img_size: int = 224,
    patch_size: int = 4,
    in_chans: int = 3,
    num_classes: int = 1000,
    depths: Sequence[int] = (2, 2, 9, 2),
    dims: int | Sequence[int] = (96, 192, 384, 768),
    d_state: int = 1,
    dt_init: str = "random",
    mlp_ratio: float = 4.0,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    patch_norm: bool = True,
    use_checkpoint: bool = False,
) -> dict:
    """Arguments of `SpatialMamba` for those of the authors' class, with its defaults.

    The authors' model computes the same for every img_size.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(
        patch_size=(patch_size, 4),
        d_state=(d_state, 1),
        dt_init=(dt_init, "random"),
        drop_rate=(drop_rate, 0.0),
        attn_drop_rate=(attn_drop_rate, 0.0),
        patch_norm=(patch_norm, True),
        use_checkpoint=(use_checkpoint, False),  # see SpatialMamba.set_grad_checkpointing
    )
    return {
        "in_chans": in_chans,
        "num_classes": num_classes,
        "depths": depths,
        "dims": [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else dims,
        "mlp_ratio": mlp_ratio,
        "drop_path_rate": drop_path_rate,
    }


def _cfg(**kwargs) -> dict:
    return imagenet_cfg(
        first_conv="stem.conv1.conv",
        license="apache-2.0",
        paper_ids="arXiv:2410.15091",
        paper_name="Spatial-Mamba: Effective Visual State Space Models via Structure-aware State"
        " Fusion",
        origin_url="https://github.com/EdwardChasel/Spatial-Mamba",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "spatial_mamba_tiny.in1k": _cfg(**on_google_drive("19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW")),
        "spatial_mamba_small.in1k": _cfg(**on_google_drive("1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O")),
        "spatial_mamba_base.in1k": _cfg(**on_google_drive("1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM")),
        "test_spatial_mamba.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


def _dims(dim: int) -> tuple[int, ...]:
    return tuple(dim * 2**i for i in range(4))


@register_model
def spatial_mamba_tiny(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """Spatial-Mamba-T: 26.7 M parameters, 83.5 % top-1 as published."""
    model = {"depths": (2, 4, 8, 4), "dims": _dims(64)}
    return build(SpatialMamba, "spatial_mamba_tiny", pretrained, **{**model, **kwargs})


@register_model
def spatial_mamba_small(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """Spatial-Mamba-S: 43.1 M parameters, 84.6 % top-1 as published."""
    model = {"depths": (2, 4, 21, 5), "dims": _dims(64)}
    return build(SpatialMamba, "spatial_mamba_small", pretrained, **{**model, **kwargs})


@register_model
def spatial_mamba_base(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """Spatial-Mamba-B: 95.7 M parameters, 85.3 % top-1 as published."""
    model = {"depths": (2, 4, 21, 5), "dims": _dims(96)}
    return build(SpatialMamba, "spatial_mamba_base", pretrained, **{**model, **kwargs})


@register_model
def test_spatial_mamba(pretrained: bool = False, **kwargs) -> SpatialMamba:
    """The smallest Spatial-Mamba, for tests."""
    model = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    return build(SpatialMamba, "test_spatial_mamba", pretrained, **{**model, **kwargs})
