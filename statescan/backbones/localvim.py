"""LocalVim: Vim with a searched set of scans in each block, windowed ones among them.

Paper: Huang et al., LocalMamba: Visual State Space Model with Windowed Selective Scan, arXiv
2403.09338.
Official code and weights: https://github.com/hunto/LocalMamba (Apache-2.0).

On maps that are not square the authors' code puts the outputs of column scans in the wrong places;
here they are where they belong.
"""

from collections.abc import Mapping, Sequence

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..layers import AttentiveSum
from ..scans import Route, TokenScan
from ..scans.routes import ClassToken, resolve_routes, routes_by_block
from ._build import build, imagenet_cfg
from ._local import local_routes
from ._official import choose, refuse_unpublished
from ._vision_mamba import RMS_NORM, VisionMamba, from_official_names

__all__ = ["LocalVim"]

# The scans that the authors' search found for the tiny model, block by block.
SEARCHED_NAMES = (
    ("h", "v_flip", "w7", "w7_flip"),
    ("h_flip", "w2_flip", "w7", "w7_flip"),
    ("h", "h_flip", "v", "w7"),
    *(("h", "h_flip", "v", "v_flip"),) * 3,
    ("h_flip", "v", "v_flip", "w7"),
    ("h_flip", "v", "v_flip", "w2_flip"),
    *(("h", "h_flip", "v", "v_flip"),) * 2,
    ("h", "v", "v_flip", "w2"),
    ("h", "v", "v_flip", "w2_flip"),
    ("h", "h_flip", "v_flip", "w7"),
    ("h_flip", "v", "v_flip", "w2"),
    ("h", "h_flip", "v", "v_flip"),
    ("h", "v", "w2", "w2_flip"),
    ("v", "v_flip", "w2", "w7"),
    ("h", "h_flip", "v", "w2"),
    ("h", "h_flip", "w2_flip", "w7"),
    ("v", "v_flip", "w2", "w2_flip"),
)
SEARCHED = local_routes(SEARCHED_NAMES)
NORMS = {"rms": RMS_NORM, "layer": nn.LayerNorm}


class LocalVim(VisionMamba):
    """LocalVim image model, any image size.

    Args:
        depth: blocks.
        dim: channels.
        d_state: states a channel.
        expand: inner width of the scan as a multiple of the channels.
        dt_rank: rank of dt; "auto" is ceil(channels / 16).
        routes: scan routes, as in `S6`; or a sequence of such sequences, one for each block.
        class_token: whether there is a class token, visited in the middle of the routes.
        rope: side of the grid that rotary embeddings were made for; 0 for none.
        norm: "rms", or "layer" as in the authors' detectors.
        **model: further arguments of `VisionMamba` and `Isotropic`.
    """

    def __init__(
        self,
        depth: int = 20,
        dim: int = 192,
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        routes: str | Sequence[str | Route] | Sequence[Sequence[str | Route]] = SEARCHED,
        class_token: bool = False,
        rope: int = 14,
        norm: str = "rms",
        **model,
    ):
        by_block = routes_by_block(routes, depth)
        scan = {"d_state": d_state, "expand": expand, "dt_rank": dt_rank}

        def make_mixer(block: int) -> nn.Module:
            routes = resolve_routes(by_block[block])
            if class_token:
                routes = tuple(map(ClassToken, routes))
            return TokenScan(dim, routes=routes, merge=AttentiveSum, **scan)

        super().__init__(
            make_mixer,
            depth=depth,
            dim=dim,
            class_token=class_token,
            rope=rope,
            norm_layer=choose("norm", norm, NORMS),
            **model,
        )

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Takes the out-norms of detection backbones too. Dropped are `rope.freqs_cos` and
    `rope.freqs_sin`, which are computed, and where the model has no class token `cls_token` and
    its position.
    """
    return from_official_names(state_dict, model, OFFICIAL_NAMES)


OFFICIAL_NAMES = (
    (r"^outnorm_(\d+)\.", r"out_norms.\1."),
    (r"\.mixer\.(A_log|D)_(\d+)$", r".mixer.s6.\1/\2"),
    (r"\.mixer\.(x_proj|dt_proj)_(\d+)\.(\w+)$", r".mixer.s6.\1_\3/\2"),
    (r"\.mixer\.conv1d_(\d+)\.(\w+)$", r".mixer.s6.conv_\2/\1"),
    (r"\.mixer\.attn\.global_reduce\.", ".mixer.s6.merge.fc1."),
    (r"\.mixer\.attn\.channel_select\.", ".mixer.s6.merge.fc2."),
    (r"\.mixer\.attn\.norm\.", ".mixer.s6.merge.norm."),
)


def from_official_kwargs(
    img_size: int | Sequence[int] = 224,
    patch_size: int = 16,
    depth: int = 24,
    embed_dim: int = 192,
    channels: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = False,
    fused_add_norm: bool = False,
    residual_in_fp32: bool = False,
    pt_hw_seq_len: int = 14,
    final_pool_type: str = "mean",
    if_abs_pos_embed: bool = True,
    if_rope: bool = False,
    if_rope_residual: bool = False,
    if_cls_token: bool = False,
    use_middle_cls_token: bool = False,
    bimamba_type: str = "v2",
    directions: Sequence[Sequence[str]] = SEARCHED_NAMES,
    out_indices: Sequence[int] | None = None,
) -> dict:
    """Arguments of `LocalVim` for those of the authors' `VisionMamba`.

    The choices that all published models make are the defaults. Feature maps are what blocks add,
    as in their backbone for detection; which are taken (`out_indices`) is an argument of
    `forward_intermediates` here.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(
        norm_epsilon=(norm_epsilon, 1e-5),
        if_abs_pos_embed=(if_abs_pos_embed, True),
        if_rope_residual=(if_rope_residual, if_rope),
        use_middle_cls_token=(use_middle_cls_token, if_cls_token),
        bimamba_type=(bimamba_type, "v2"),
        final_pool_type=(final_pool_type, "mean"),
    )
    return {
        "img_size": img_size,
        "patch_size": patch_size,
        "in_chans": channels,
        "num_classes": num_classes,
        "depth": depth,
        "dim": embed_dim,
        "routes": local_routes(directions),
        "class_token": if_cls_token,
        "rope": pt_hw_seq_len if if_rope else 0,
        "features": "mixer",
        "norm": "rms" if rms_norm else "layer",
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
    }


def _cfg(file: str = "", **kwargs) -> dict:
    releases = "https://github.com/hunto/LocalMamba/releases/download/v1.0.0"
    return imagenet_cfg(
        url=f"{releases}/{file}" if file else "",
        pool_size=None,
        first_conv="stem.proj",
        license="apache-2.0",
        paper_ids="arXiv:2403.09338",
        paper_name="LocalMamba: Visual State Space Model with Windowed Selective Scan",
        origin_url="https://github.com/hunto/LocalMamba",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "localvim_tiny.in1k": _cfg("local_vim_tiny.ckpt"),
        "localvim_tiny_class_token.in1k": _cfg("local_vim_tiny_middle_cls_token.ckpt"),
        "localvim_small.in1k": _cfg(),  # no known address: the authors link LocalVMamba-S instead
        "test_localvim.untrained": _cfg(),
    }
)


@register_model
def localvim_tiny(pretrained: bool = False, **kwargs) -> LocalVim:
    """LocalVim-T: 8.0 M parameters, 76.2 % top-1 as published."""
    return build(LocalVim, "localvim_tiny", pretrained, **{"dim": 192, **kwargs})


@register_model
def localvim_tiny_class_token(pretrained: bool = False, **kwargs) -> LocalVim:
    """LocalVim-T with a class token: 8.0 M parameters, 77.8 % top-1 as published."""
    sizes = {"dim": 192, "class_token": True, "rope": 0}
    return build(LocalVim, "localvim_tiny_class_token", pretrained, **{**sizes, **kwargs})


@register_model
def localvim_small(pretrained: bool = False, **kwargs) -> LocalVim:
    """LocalVim-S: 27.8 M parameters, 81.1 % top-1 as published."""
    sizes = {"dim": 384, "routes": local_routes((("h", "h_flip", "w2", "w2_flip"),) * 20)}
    return build(LocalVim, "localvim_small", pretrained, **{**sizes, **kwargs})


@register_model
def test_localvim(pretrained: bool = False, **kwargs) -> LocalVim:
    """The smallest LocalVim, for tests."""
    sizes = {"img_size": 64, "patch_size": 8, "depth": 4, "dim": 16, "routes": SEARCHED[6:10]}
    return build(LocalVim, "test_localvim", pretrained, **{**sizes, **kwargs})
