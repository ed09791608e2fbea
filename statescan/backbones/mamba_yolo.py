"""Mamba-YOLO: the backbone of a detector whose blocks mix local convolutions with a 2-D scan.

Paper: Wang et al., Mamba YOLO: SSMs-Based YOLO For Object Detection, arXiv 2406.05835.
Official code: https://github.com/HZAI-ZJNU/Mamba-YOLO (AGPL-3.0), of which nothing is used here.

The neck and the head are in `mamba_yolo_detector`.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from timm.layers import ConvNormAct, DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..layers import ConvMlp, Mlp
from ..layers.resolution import fold_blocks
from ..scans import S6, Route, Scan2d
from ._build import build, imagenet_cfg
from ._checkpoint import match_shapes, rename, scan_names
from ._pyramid import Pyramid, block_stages

__all__ = ["ConvNorm", "MambaYOLO", "ODSSBlock", "start_scans"]


class ConvNorm(ConvNormAct):
    """Convolution, batch norm and activation on maps: (B, H, W, C) → (B, ⌈H/s⌉, ⌈W/s⌉, C').

    Args:
        dim: channels C.
        out_dim: channels C'.
        size: side of the kernel, odd.
        act_layer: the activation.
        **conv: stride s, groups, bias and apply_act, as in timm's `ConvNormAct`.
    """

    def __init__(self, dim: int, out_dim: int, size: int = 1, *, act_layer=nn.SiLU, **conv):
        norm = {"eps": 1e-3, "momentum": 0.03}  # of every batch norm of a YOLO
        super().__init__(dim, out_dim, size, act_layer=act_layer, norm_kwargs=norm, **conv)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise x (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SimpleStem(nn.Module):
    """Two 3x3 convolutions of stride 2: (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv1 = ConvNorm(in_chans, dim // 2, 3, stride=2, act_layer=nn.GELU)
        self.conv2 = ConvNorm(dim // 2, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        return self.conv2(self.conv1(x.permute(0, 2, 3, 1)))


class VisionClueMerge(ConvNorm):
    """Each 2x2 block becomes one token: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C').

    Odd sizes are padded with zeros on the right and at the bottom.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__(4 * dim, out_dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        return super().forward(fold_blocks(x))


class LocalSpatial(nn.Module):
    """Depthwise 3x3 convolution, then MLP, with a residual: (B, H, W, C) → (B, H, W, C).

    Source: LS block of Mamba-YOLO, arXiv 2406.05835.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv = ConvNorm(dim, dim, 3, groups=dim, bias=True, apply_act=False)
        self.mlp = Mlp(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix neighbours, then channels, of x (B, H, W, C)."""
        return x + self.mlp(self.conv(x))


class ODSSBlock(nn.Module):
    """Projection, then local mixing and scans, then gated MLP, the last two with a residual.

    (B, H, W, C) → (B, H, W, C').

    Args:
        dim: channels C'.
        in_dim: channels C; None for as many.
        scans: how many scans follow each other without a residual in between.
        proj_bias: whether the projection's convolution has a bias.
        drop_path: probability that a residual branch is left out for a sample.
        routes: scan routes, as in `Scan2d`.

    Source: ODSS block of Mamba-YOLO, arXiv 2406.05835; the residual starts after the projection.
    """

    def __init__(
        self,
        dim: int,
        *,
        in_dim: int | None = None,
        scans: int = 1,
        proj_bias: bool = True,
        drop_path: float = 0.0,
        routes: str | Sequence[str | Route] = "cross",
    ):
        super().__init__()
        scan = {"routes": routes, "d_state": 16, "expand": 2.0, "conv_bias": True, "gate": True}
        self.proj = ConvNorm(in_dim or dim, dim, bias=proj_bias)
        self.local = LocalSpatial(dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.scans = nn.Sequential(*(Scan2d(dim, act_layer=nn.GELU, **scan) for _ in range(scans)))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvMlp(dim, 8 * dim // 3, residual=True, gate=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, of x (B, H, W, C)."""
        x = self.proj(x)
        x = x + self.drop_path(self.scans(self.norm1(self.local(x))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SPPF(nn.Module):
    """Maxima over growing neighbourhoods beside the map itself: (B, H, W, C) → (B, H, W, C).

    Three 5x5 maxima, each of the one before, see 5, 9 and 13 positions a side: fast spatial pyramid
    pooling, after arXiv 1406.4729.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = ConvNorm(dim, dim // 2)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = ConvNorm(dim // 2 * 4, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Pool x (B, H, W, C)."""
        maps = [self.conv1(x).permute(0, 3, 1, 2)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.conv2(torch.cat(maps, dim=1).permute(0, 2, 3, 1))


@torch.no_grad()
def start_scans(module: nn.Module) -> None:
    """The authors' start of every scan in a module: decay rates of 1, step sizes at random."""
    for s6 in (m for m in module.modules() if isinstance(m, S6)):
        nn.init.zeros_(s6.A_log)
        nn.init.normal_(s6.dt_proj_weight)
        nn.init.normal_(s6.dt_proj_bias)


class MambaYOLO(Pyramid):
    """Mamba-YOLO's backbone as an image model, any image size.

    The last block of the last stage is the pyramid pooling (SPPF), and the last feature map the
    one after it, which is what the detector's neck takes. A batch norm ends it, so there is no
    last norm.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head.
        depths: ODSS blocks a stage.
        dims: channels a stage.
        routes: scan routes, as in `Scan2d`.
        drop_rate: dropout before the classifier.
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
        depths: Sequence[int] = (1, 1, 3, 1),
        dims: Sequence[int] = (32, 64, 128, 256),
        routes: str | Sequence[str | Route] = "cross",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_norms: bool | Sequence[int] = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        def block(stage: int, dim: int, rate: float) -> ODSSBlock:
            return ODSSBlock(dim, drop_path=rate, routes=routes)

        with torch.device(device or torch.get_default_device()):
            stages = block_stages(block, VisionClueMerge, depths, dims, drop_path_rate)
            stages[-1].blocks.append(SPPF(dims[-1]))
            super().__init__(
                SimpleStem(in_chans, dims[0]),
                stages,
                dims,
                in_chans=in_chans,
                num_classes=num_classes,
                global_pool=global_pool,
                drop_rate=drop_rate,
                out_norms=out_norms,
            )
            self.norm = nn.Identity()
            start_scans(self)
        self.feature_info[-1]["module"] += f".blocks.{depths[-1]}"  # the pyramid pooling
        self.to(dtype=dtype)

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """`checkpoint_filter_fn` of this file, so that every way of loading weights passes it."""
        return checkpoint_filter_fn(state_dict, model)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The backbone of the authors' detector under our names and shapes; ours is returned unchanged.

    Dropped are the layers of the detector's neck and head, by their numbers in `NECK_AND_HEAD`.
    """
    if not is_official(state_dict):
        return dict(state_dict)
    weights = {re.sub(r"^model\.", "", k): v for k, v in state_dict.items()}
    weights = {k: v for k, v in weights.items() if not k.startswith(NECK_AND_HEAD)}
    return match_shapes(rename(weights, backbone_names(model)), model)


def is_official(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a state_dict has the authors' names, a layer's number first."""
    return any(re.match(r"(model\.)?\d+\.", key) for key in state_dict)


def backbone_names(model: MambaYOLO) -> tuple:
    """Rules from the authors' names, without `model.`, to those of a backbone of ours."""
    sppf = model.feature_info[-1]["module"]
    return (
        *((rf"^0\.conv\.{i}\.", f"stem.{name}.") for i, name in STEM_LAYERS),
        (r"^([1357])\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}."),
        (r"^([1357])\.", lambda m: f"stages.{int(m[1]) // 2}.blocks.0."),
        (r"^([246])\.pw_linear\.0\.", lambda m: f"stages.{int(m[1]) // 2}.downsample.conv."),
        (r"^([246])\.pw_linear\.1\.", lambda m: f"stages.{int(m[1]) // 2}.downsample.bn."),
        (r"^8\.cv(\d)\.", rf"{sppf}.conv\1."),
        *BLOCK_NAMES,
    )


NECK_AND_HEAD = ("11.", "14.", "15.", "17.", "18.", "20.", "21.")
STEM_LAYERS = ((0, "conv1.conv"), (1, "conv1.bn"), (3, "conv2.conv"), (4, "conv2.bn"))
BLOCK_NAMES = (
    (r"\.(proj_conv|in_proj)\.0\.", ".proj.conv."),
    (r"\.(proj_conv|in_proj)\.1\.", ".proj.bn."),
    (r"\.norm\.norm\.", ".norm1."),
    (r"\.norm2\.norm\.", ".norm2."),
    (r"\.mlp\.dwconv\.", ".mlp.conv."),
    (r"\.lsblock\.fc1\.", ".local.conv.conv."),
    (r"\.lsblock\.norm\.", ".local.conv.bn."),
    (r"\.lsblock\.fc2\.", ".local.mlp.fc1."),
    (r"\.lsblock\.fc3\.", ".local.mlp.fc2."),
    (r"\.op\.", ".scans.0."),
    (r"\.ss2d\.", ".scans."),
    *scan_names(r"\.scans\.\d+"),
)


def _cfg(**kwargs) -> dict:
    return imagenet_cfg(
        first_conv="stem.conv1.conv",
        license="agpl-3.0",
        paper_ids="arXiv:2406.05835",
        paper_name="Mamba YOLO: SSMs-Based YOLO For Object Detection",
        origin_url="https://github.com/HZAI-ZJNU/Mamba-YOLO",
        **kwargs,
    )


def _cfg_640() -> dict:
    """Detection at 640 pixels, on images in [0, 1]."""
    return _cfg(
        input_size=(3, 640, 640),
        pool_size=(20, 20),
        crop_pct=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


default_cfgs = generate_default_cfgs(
    {
        "mamba_yolo_tiny.coco": _cfg_640(),
        "mamba_yolo_medium.coco": _cfg_640(),
        "mamba_yolo_large.coco": _cfg_640(),
        "test_mamba_yolo.untrained": _cfg(input_size=(3, 64, 64), pool_size=(2, 2)),
    }
)


@register_model
def mamba_yolo_tiny(pretrained: bool = False, **kwargs) -> MambaYOLO:
    """Mamba-YOLO-T: 6.1 M parameters with neck and head, 44.5 box AP on COCO as published."""
    return build(MambaYOLO, "mamba_yolo_tiny", pretrained, **kwargs)


@register_model
def mamba_yolo_medium(pretrained: bool = False, **kwargs) -> MambaYOLO:
    """Mamba-YOLO-M, B to its authors' code: 21.8 M parameters with neck and head, 49.1 box AP on
    COCO as published.
    """
    model = {"dims": (64, 128, 256, 512)}
    return build(MambaYOLO, "mamba_yolo_medium", pretrained, **{**model, **kwargs})


@register_model
def mamba_yolo_large(pretrained: bool = False, **kwargs) -> MambaYOLO:
    """Mamba-YOLO-L: 57.6 M parameters with neck and head, 52.1 box AP on COCO as published."""
    model = {"depths": (2, 2, 6, 2), "dims": (96, 192, 384, 576)}
    return build(MambaYOLO, "mamba_yolo_large", pretrained, **{**model, **kwargs})


@register_model
def test_mamba_yolo(pretrained: bool = False, **kwargs) -> MambaYOLO:
    """The smallest Mamba-YOLO backbone, for tests."""
    model = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
    return build(MambaYOLO, "test_mamba_yolo", pretrained, **{**model, **kwargs})
