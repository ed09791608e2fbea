"""VMamba: visual state space model.

Paper: Liu et al., VMamba: Visual State Space Model, NeurIPS 2024, arXiv 2401.10166.
Official code and weights: https://github.com/MzeroMiko/VMamba (MIT).

Names follow the authors: `s1`/`s2` is the inner width of the scan as a multiple of the channels,
`l8` the depth of the third stage; `v0` is the first version (16 states, a gate, no MLP).
"""

from collections.abc import Mapping, Sequence

import torch
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..layers import DOWNSAMPLES, STEMS, Mlp
from ..scans import Route, Scan2d
from ..scans.parameters import Merge
from ..scans.routes import routes_by_block
from ._build import build, imagenet_cfg
from ._checkpoint import STAGE_NAMES, match_shapes, rename, scan_names
from ._official import choose
from ._pyramid import Pyramid, block_stages

__all__ = ["VMamba", "VMambaBlock"]


class VMambaBlock(nn.Module):
    """Pre-norm 2-D scan, then pre-norm MLP where mlp_ratio is not 0, each with a residual.

    (B, H, W, C) → (B, H, W, C). Arguments beyond these are those of `Scan2d`.
    """

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0, **scan):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.scan = Scan2d(dim, **scan)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim) if mlp_ratio else None
        self.mlp = Mlp(dim, int(dim * mlp_ratio)) if mlp_ratio else None

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, of x (B, H, W, C)."""
        x = x + self.drop_path(self.scan(self.norm1(x)))
        if self.mlp is not None:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class VMamba(Pyramid):
    """VMamba image model, any image size.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        depths: blocks a stage.
        dims: channels a stage.
        d_state: states a channel.
        expand: inner width of the scan as a multiple of the channels.
        dt_rank: rank of dt; "auto" is ceil(channels / 16).
        routes: scan routes, as in `Scan2d`; or a sequence of such sequences, one for each block.
        merge: how the routes' outputs are merged, as in `Scan2d`.
        recurrence: what scans, as in `Scan2d`; "2dmamba" makes 2DVMamba (arXiv 2412.00678).
        gate: whether the scan's output is gated.
        conv_bias: whether the scan's convolution has a bias.
        mlp_ratio: hidden width of the MLP as a multiple of the channels; 0 for no MLP.
        stem: "conv" (two 3x3 of stride 2) or "patch" (one 4x4 of stride 4).
        downsample: "conv" (3x3 of stride 2) or "merge" (2x2 patches).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        init_std: deviation of linear weights at the start; None for 1/√inputs, without which
            narrow models hardly learn.
        out_norms: stages whose feature map gets a LayerNorm of its own; True for all.
        device: where the parameters are made.
        dtype: type of the parameters.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 2, 8, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        d_state: int = 1,
        expand: float = 1.0,
        dt_rank: int | str = "auto",
        routes: str | Sequence[str | Route] | Sequence[Sequence[str | Route]] = "cross",
        merge: str | Merge = "sum",
        recurrence: str = "s6",
        gate: bool = False,
        conv_bias: bool = False,
        mlp_ratio: float = 4.0,
        stem: str = "conv",
        downsample: str = "conv",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_std: float | None = 0.02,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        scan = {
            "d_state": d_state,
            "expand": expand,
            "dt_rank": dt_rank,
            "merge": merge,
            "recurrence": recurrence,
            "gate": gate,
            "conv_bias": conv_bias,
        }
        by_block = iter(routes_by_block(routes, sum(depths)))

        def block(stage: int, dim: int, rate: float) -> VMambaBlock:
            routes = next(by_block)
            return VMambaBlock(dim, mlp_ratio=mlp_ratio, drop_path=rate, routes=routes, **scan)

        with torch.device(device or torch.get_default_device()):
            super().__init__(
                STEMS[stem](in_chans, dims[0]),
                block_stages(block, DOWNSAMPLES[downsample], depths, dims, drop_path_rate),
                dims,
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                drop_rate=drop_rate,
                out_norms=out_norms,
            )
            self.init_weights(init_std)
        self.to(dtype=dtype)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Takes the names of the first release and the out-norms of detection backbones too. Nothing is
    dropped.
    """
    if not any(key.startswith(("patch_embed.", "layers.")) for key in state_dict):
        return dict(state_dict)
    conv_stem = "stem.conv1.weight" in model.state_dict()
    names = OFFICIAL_NAMES + (CONV_STEM_NAMES if conv_stem else PATCH_STEM_NAMES)
    return match_shapes(rename(state_dict, names), model)


OFFICIAL_NAMES = (
    # The first release's names, as the authors' own loader maps them.
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    (r"^(norm|head)\.", r"classifier.\1."),
    # Today's names.
    (r"^classifier\.norm\.", "norm."),
    (r"^classifier\.head\.", "head.fc."),
    *STAGE_NAMES,
    (r"\.downsample\.1\.", ".downsample.conv."),
    (r"\.downsample\.3\.", ".downsample.norm."),
    (r"(\.blocks\.\d+)\.norm\.", r"\1.norm1."),
    (r"\.op\.", ".scan."),
    *scan_names(r"\.scan"),
)
CONV_STEM_NAMES = tuple(
    (rf"^patch_embed\.{i}\.", f"stem.{name}.")
    for i, name in ((0, "conv1"), (2, "norm1"), (5, "conv2"), (7, "norm2"))
)
PATCH_STEM_NAMES = ((r"^patch_embed\.0\.", "stem.conv."), (r"^patch_embed\.2\.", "stem.norm."))


def from_official_kwargs(
    patch_size: int = 4,
    in_chans: int = 3,
    num_classes: int = 1000,
    depths: Sequence[int] = (2, 2, 9, 2),
    dims: int | Sequence[int] = (96, 192, 384, 768),
    ssm_d_state: int = 16,
    ssm_ratio: float = 2.0,
    ssm_dt_rank: int | str = "auto",
    ssm_act_layer: str = "silu",
    ssm_conv: int = 3,
    ssm_conv_bias: bool = True,
    ssm_drop_rate: float = 0.0,
    ssm_init: str = "v0",
    forward_type: str = "v2",
    mlp_ratio: float = 4.0,
    mlp_act_layer: str = "gelu",
    mlp_drop_rate: float = 0.0,
    gmlp: bool = False,
    drop_path_rate: float = 0.1,
    patch_norm: bool = True,
    norm_layer: str = "LN",
    downsample_version: str = "v2",
    patchembed_version: str = "v1",
    use_checkpoint: bool = False,
    posembed: bool = False,
    imgsize: int = 224,
) -> dict:
    """Arguments of `VMamba` for those of the authors' `VSSM`, with that constructor's defaults.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    fixed = {
        "patch_size": (patch_size, (4,)),
        "ssm_act_layer": (ssm_act_layer, ("silu",)),
        "ssm_conv": (ssm_conv, (3,)),
        "ssm_drop_rate": (ssm_drop_rate, (0.0,)),
        "ssm_init": (ssm_init, ("v0",)),
        "mlp_act_layer": (mlp_act_layer, ("gelu",)),
        "mlp_drop_rate": (mlp_drop_rate, (0.0,)),
        "gmlp": (gmlp, (False,)),
        "patch_norm": (patch_norm, (True,)),
        "norm_layer": (norm_layer.lower(), ("ln", "ln2d")),  # one norm in two layouts
        "use_checkpoint": (use_checkpoint, (False,)),  # see VMamba.set_grad_checkpointing
        "posembed": (posembed, (False,)),
    }
    for name, (value, published) in fixed.items():
        choose(name, value, {choice: choice for choice in published})
    return {
        "in_chans": in_chans,
        "num_classes": num_classes,
        "depths": depths,
        "dims": [dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else dims,
        "d_state": ssm_d_state,
        "expand": ssm_ratio,
        "dt_rank": ssm_dt_rank,
        "gate": choose("forward_type", forward_type, OFFICIAL_GATES),
        "conv_bias": ssm_conv_bias,
        "mlp_ratio": mlp_ratio,
        "stem": choose("patchembed_version", patchembed_version, {"v1": "patch", "v2": "conv"}),
        "downsample": choose("downsample_version", downsample_version, OFFICIAL_DOWNSAMPLES),
        "drop_path_rate": drop_path_rate,
    }


# v2 to v05 compute what v0 computes; `_noz` takes the gate away.
OFFICIAL_GATES = {"v0": True} | {
    version + suffix: not suffix
    for version in ("v2", "v3", "v02", "v04", "v05")
    for suffix in ("", "_noz")
}
OFFICIAL_DOWNSAMPLES = {"v1": "merge", "v3": "conv"}


def _cfg(file: str = "", tag: str = "%23v2cls", first_conv: str = "stem.conv1", **kwargs) -> dict:
    releases = "https://github.com/MzeroMiko/VMamba/releases/download"
    return imagenet_cfg(
        url=f"{releases}/{tag}/{file}" if file else "",
        first_conv=first_conv,
        license="mit",
        paper_ids="arXiv:2401.10166",
        paper_name="VMamba: Visual State Space Model",
        origin_url="https://github.com/MzeroMiko/VMamba",
        **kwargs,
    )


def _cfg_v0(file: str) -> dict:
    return _cfg(file, tag="%23v0cls", first_conv="stem.conv")


default_cfgs = generate_default_cfgs(
    {
        "vmamba_v0_tiny.in1k": _cfg_v0("vssmtiny_dp01_ckpt_epoch_292.pth"),
        "vmamba_v0_small.in1k": _cfg_v0("vssmsmall_dp03_ckpt_epoch_238.pth"),
        "vmamba_v0_base.in1k": _cfg_v0("vssmbase_dp06_ckpt_epoch_241.pth"),
        "vmamba_tiny_s2l5.in1k": _cfg("vssm_tiny_0230_ckpt_epoch_262.pth"),
        "vmamba_small_s2l15.in1k": _cfg("vssm_small_0229_ckpt_epoch_222.pth"),
        "vmamba_base_s2l15.in1k": _cfg("vssm_base_0229_ckpt_epoch_237.pth"),
        "vmamba_tiny_s1l8.in1k": _cfg("vssm1_tiny_0230s_ckpt_epoch_264.pth"),
        "vmamba_small_s1l20.in1k": _cfg("vssm1_small_0229s_ckpt_epoch_240.pth"),
        "vmamba_base_s1l20.in1k": _cfg("vssm1_base_0229s_ckpt_epoch_225.pth"),
        "vmamba_nano.untrained": _cfg(),
        "test_vmamba.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


def first_version(depth: int, dim: int) -> dict:
    """The first version: 16 states, gated, no MLP, patch stem and merging."""
    return {
        "depths": (2, 2, depth, 2),
        "dims": tuple(dim * 2**i for i in range(4)),
        "d_state": 16,
        "expand": 2.0,
        "gate": True,
        "conv_bias": True,
        "mlp_ratio": 0.0,
        "stem": "patch",
        "downsample": "merge",
    }


def _v2(depth: int, dim: int, expand: float) -> dict:
    """The second version: one state, no gate, MLP, convolutional stem and downsampling."""
    dims = tuple(dim * 2**i for i in range(4))
    return {"depths": (2, 2, depth, 2), "dims": dims, "expand": expand}


@register_model
def vmamba_v0_tiny(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-T, first version: 22.9 M parameters, 82.2 % top-1 as published."""
    return build(VMamba, "vmamba_v0_tiny", pretrained, **{**first_version(9, 96), **kwargs})


@register_model
def vmamba_v0_small(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-S, first version: 44.4 M parameters, 83.5 % top-1 as published."""
    return build(VMamba, "vmamba_v0_small", pretrained, **{**first_version(27, 96), **kwargs})


@register_model
def vmamba_v0_base(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-B, first version: 76.3 M parameters, 83.7 % top-1 as published."""
    return build(VMamba, "vmamba_v0_base", pretrained, **{**first_version(27, 128), **kwargs})


@register_model
def vmamba_tiny_s2l5(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-T[s2l5]: 30.7 M parameters, 82.5 % top-1 as published."""
    return build(VMamba, "vmamba_tiny_s2l5", pretrained, **{**_v2(5, 96, 2.0), **kwargs})


@register_model
def vmamba_small_s2l15(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-S[s2l15]: 50.1 M parameters, 83.6 % top-1 as published."""
    return build(VMamba, "vmamba_small_s2l15", pretrained, **{**_v2(15, 96, 2.0), **kwargs})


@register_model
def vmamba_base_s2l15(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-B[s2l15]: 88.6 M parameters, 83.9 % top-1 as published."""
    return build(VMamba, "vmamba_base_s2l15", pretrained, **{**_v2(15, 128, 2.0), **kwargs})


@register_model
def vmamba_tiny_s1l8(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-T[s1l8]: 30.2 M parameters, 82.6 % top-1 as published."""
    return build(VMamba, "vmamba_tiny_s1l8", pretrained, **{**_v2(8, 96, 1.0), **kwargs})


@register_model
def vmamba_small_s1l20(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-S[s1l20]: 49.0 M parameters, 83.3 % top-1 as published."""
    return build(VMamba, "vmamba_small_s1l20", pretrained, **{**_v2(20, 96, 1.0), **kwargs})


@register_model
def vmamba_base_s1l20(pretrained: bool = False, **kwargs) -> VMamba:
    """VMamba-B[s1l20]: 86.6 M parameters, 83.8 % top-1 as published."""
    return build(VMamba, "vmamba_base_s1l20", pretrained, **{**_v2(20, 128, 1.0), **kwargs})


@register_model
def vmamba_nano(pretrained: bool = False, **kwargs) -> VMamba:
    """A small VMamba of our own for little data and CPUs; no published weights."""
    return build(
        VMamba,
        "vmamba_nano",
        pretrained,
        **{**{"depths": (1, 1, 2, 1), "dims": (32, 64, 128, 192), "init_std": None}, **kwargs},
    )


@register_model
def test_vmamba(pretrained: bool = False, **kwargs) -> VMamba:
    """The smallest VMamba, for tests."""
    return build(
        VMamba,
        "test_vmamba",
        pretrained,
        **{**{"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, **kwargs},
    )
