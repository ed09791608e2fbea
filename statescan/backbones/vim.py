"""Vim: Vision Mamba, two scans through the patches and a class token in their middle.

Paper: Zhu et al., Vision Mamba: Efficient Visual Representation Learning with Bidirectional State
Space Model, ICML 2024, arXiv 2401.09417.
Official code: https://github.com/hustvl/Vim (Apache-2.0).
Official weights: https://huggingface.co/hustvl.
"""

from collections.abc import Mapping, Sequence

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..scans import Route, TokenScan
from ..scans.routes import ClassToken, Reverse, resolve_routes
from ._build import build, imagenet_cfg
from ._official import choose, refuse_unpublished
from ._vision_mamba import VisionMamba, from_official_names

__all__ = ["Vim"]


class Rescale(nn.Sequential):
    """Layers that change the resolution of a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Rescale x (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def rescale(dim: int, place: int) -> Rescale:
    """Bring a map to 4, 2, 1 or 1/2 times its resolution, by its place among the maps."""

    def double() -> nn.Module:
        return nn.ConvTranspose2d(dim, dim, 2, stride=2)

    layers = (
        lambda: (double(), nn.BatchNorm2d(dim), nn.GELU(), double()),
        lambda: (double(),),
        lambda: (),
        lambda: (nn.MaxPool2d(2),),
    )
    return Rescale(*layers[place]())


class Vim(VisionMamba):
    """Vision Mamba image model, any image size.

    Args:
        depth: blocks.
        dim: channels.
        d_state: states a channel.
        expand: inner width of the scan as a multiple of the channels.
        dt_rank: rank of dt; "auto" is ceil(channels / 16).
        routes: scan routes, as in `S6`.
        class_token: whether there is a class token, visited in the middle of the routes.
        pyramid: up to four blocks whose maps are brought to 4, 2, 1 and 1/2 times the resolution,
            as the authors' segmenter is trained; they get no out-norm.
        **model: further arguments of `VisionMamba` and `Isotropic`.
    """

    def __init__(
        self,
        depth: int = 24,
        dim: int = 192,
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        routes: str | Sequence[str | Route] = "bidirectional",
        class_token: bool = True,
        pyramid: Sequence[int] = (),
        **model,
    ):
        routes = resolve_routes(routes)
        scan = {
            "d_state": d_state,
            "expand": expand,
            "dt_rank": dt_rank,
            "routes": tuple(map(visit_class_token, routes)) if class_token else routes,
        }
        if len(pyramid) > 4 or not set(pyramid) <= set(range(depth)):
            raise ValueError(f"pyramid is {pyramid}, expected up to 4 blocks of 0 to {depth - 1}")
        super().__init__(
            lambda block: TokenScan(dim, merge="mean", **scan),
            depth=depth,
            dim=dim,
            class_token=class_token,
            **model,
        )
        for place, block in enumerate(pyramid):
            self.out_norms[str(block)] = rescale(dim, place).to(self.pos_embed)
            info = self.feature_info[block]
            info["reduction"] = info["reduction"] * 2**place // 4

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def visit_class_token(route: Route) -> Route:
    """The route through a class token; a reversed one passes it where the route itself does."""
    return Reverse(ClassToken(route.route)) if isinstance(route, Reverse) else ClassToken(route)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' state_dict under our names and shapes; ours is returned unchanged.

    Dropped are `rope.freqs_cos` and `rope.freqs_sin`, which are computed, and where the model has
    no class token `cls_token` and its position.
    """
    blocks = [name for name, module in model.out_norms.items() if isinstance(module, Rescale)]
    pyramid = ((rf"^fpn{i}\.", f"out_norms.{block}.") for i, block in enumerate(blocks, start=1))
    return from_official_names(state_dict, model, (*pyramid, *OFFICIAL_NAMES))


OFFICIAL_NAMES = (
    (r"\.mixer\.A_log$", ".mixer.s6.A_log/0"),
    (r"\.mixer\.A_b_log$", ".mixer.s6.A_log/1"),
    (r"\.mixer\.D$", ".mixer.s6.D/0"),
    (r"\.mixer\.D_b$", ".mixer.s6.D/1"),
    (r"\.mixer\.(x_proj|dt_proj)\.(\w+)$", r".mixer.s6.\1_\2/0"),
    (r"\.mixer\.(x_proj|dt_proj)_b\.(\w+)$", r".mixer.s6.\1_\2/1"),
    (r"\.mixer\.conv1d\.(\w+)$", r".mixer.s6.conv_\1/0"),
    (r"\.mixer\.conv1d_b\.(\w+)$", r".mixer.s6.conv_\1/1"),
)


def from_official_kwargs(
    img_size: int | Sequence[int] = 224,
    patch_size: int = 16,
    stride: int = 16,
    depth: int = 24,
    embed_dim: int = 192,
    d_state: int = 16,
    channels: int = 3,
    num_classes: int = 1000,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.1,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = True,
    fused_add_norm: bool = True,
    residual_in_fp32: bool = True,
    ft_seq_len: int | None = None,
    pt_hw_seq_len: int = 14,
    final_pool_type: str = "none",
    if_abs_pos_embed: bool = True,
    if_rope: bool = False,
    if_rope_residual: bool = False,
    bimamba_type: str = "v2",
    if_cls_token: bool = True,
    if_divide_out: bool = True,
    use_middle_cls_token: bool = True,
    out_indices: Sequence[int] | None = None,
    if_fpn: bool = True,
    use_residual_as_feature: bool = False,
    last_layer_process: str = "none",
) -> dict:
    """Arguments of `Vim` for those of the authors' `VisionMamba`, with that constructor's defaults.

    `out_indices` and what follows it are arguments of their `VisionMambaSeg`, which has no class
    token; numbers from the end are not taken.

    Raises:
        ValueError: for a choice that no published model makes, naming it.
    """
    refuse_unpublished(
        norm_epsilon=(norm_epsilon, 1e-5),
        rms_norm=(rms_norm, True),
        if_abs_pos_embed=(if_abs_pos_embed, True),
        if_rope_residual=(if_rope_residual, if_rope),
        bimamba_type=(bimamba_type, "v2"),
        if_divide_out=(if_divide_out, True),
        use_middle_cls_token=(use_middle_cls_token or not if_cls_token, True),
        last_layer_process=(last_layer_process, "add" if use_residual_as_feature else "none"),
    )
    class_token = if_cls_token and out_indices is None
    if not if_cls_token:
        choose("final_pool_type", final_pool_type, {"mean": "avg"})
    return {
        "img_size": img_size,
        "patch_size": patch_size,
        "stride": stride,
        "in_chans": channels,
        "num_classes": num_classes,
        "depth": depth,
        "dim": embed_dim,
        "d_state": d_state,
        "class_token": class_token,
        "rope": pt_hw_seq_len if if_rope else 0,
        "features": "input" if use_residual_as_feature else "mixer",
        "pyramid": (out_indices or ()) if if_fpn else (),
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
    }


def _cfg(repository: str = "", file: str = "", **kwargs) -> dict:
    source = {"hf_hub_id": f"hustvl/{repository}", "hf_hub_filename": file} if file else {}
    return imagenet_cfg(
        url="",
        **source,
        pool_size=None,
        first_conv="stem.proj",
        license="apache-2.0",
        paper_ids="arXiv:2401.09417",
        paper_name="Vision Mamba: Efficient Visual Representation Learning with Bidirectional "
        "State Space Model",
        origin_url="https://github.com/hustvl/Vim",
        **kwargs,
    )


# Of the file names only the first was seen in public; the others could not be checked.
default_cfgs = generate_default_cfgs(
    {
        "vim_tiny.in1k": _cfg("Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth"),
        "vim_tiny_stride8.in1k": _cfg("Vim-tiny-midclstok", "vim_t_midclstok_ft_78p3acc.pth"),
        "vim_small.in1k": _cfg("Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth"),
        "vim_small_stride8.in1k": _cfg("Vim-small-midclstok", "vim_s_midclstok_ft_81p6acc.pth"),
        "vim_base.in1k": _cfg("Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth"),
        "test_vim.untrained": _cfg(),
    }
)


@register_model
def vim_tiny(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-Ti: 7.1 M parameters, 76.1 % top-1 as published."""
    return build(Vim, "vim_tiny", pretrained, **{"dim": 192, **kwargs})


@register_model
def vim_tiny_stride8(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-Ti+, overlapping patches: 7.3 M parameters, 78.3 % top-1 as published."""
    return build(Vim, "vim_tiny_stride8", pretrained, **{"dim": 192, "stride": 8, **kwargs})


@register_model
def vim_small(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-S: 25.8 M parameters, 80.5 % top-1 as published."""
    return build(Vim, "vim_small", pretrained, **{"dim": 384, **kwargs})


@register_model
def vim_small_stride8(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-S+, overlapping patches: 26.0 M parameters, 81.6 % top-1 as published."""
    return build(Vim, "vim_small_stride8", pretrained, **{"dim": 384, "stride": 8, **kwargs})


@register_model
def vim_base(pretrained: bool = False, **kwargs) -> Vim:
    """Vim-B: 97.6 M parameters, 81.9 % top-1 as published."""
    return build(Vim, "vim_base", pretrained, **{"dim": 768, **kwargs})


@register_model
def test_vim(pretrained: bool = False, **kwargs) -> Vim:
    """The smallest Vim, for tests."""
    sizes = {"img_size": 64, "patch_size": 8, "depth": 4, "dim": 16}
    return build(Vim, "test_vim", pretrained, **{**sizes, **kwargs})
