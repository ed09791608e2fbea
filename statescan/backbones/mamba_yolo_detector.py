"""Mamba-YOLO's neck and head, and the whole detector.

Paper: Wang et al., Mamba YOLO: SSMs-Based YOLO For Object Detection, arXiv 2406.05835.
Official code: https://github.com/HZAI-ZJNU/Mamba-YOLO (AGPL-3.0), of which nothing is used here.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.linear import Linear
from ..layers import pad_to_patches
from ..scans import Route
from . import mamba_yolo
from ._checkpoint import match_shapes, rename
from ._contract import Backbone, LoadsOfficial
from .mamba_yolo import BLOCK_NAMES, NECK_AND_HEAD, ConvNorm, ODSSBlock, is_official, start_scans

__all__ = ["MambaYOLODetector", "MambaYOLOHead", "MambaYOLONeck", "mamba_yolo_detector"]


class MambaYOLONeck(nn.Module):
    """Path aggregation with XSS blocks: maps (B, C_i, H_i, W_i), finest first → as many like them.

    Each map meets the next coarser one, upsampled, from coarse to fine; then the next finer one,
    halved by a convolution, from fine to coarse. An XSS block merges the two: an `ODSSBlock` with
    a projection without bias and several scans.

    Args:
        dims: channels of the maps.
        scans: scans of a block.
        routes: scan routes, as in `Scan2d`.

    Source: PAFPN of Mamba-YOLO, arXiv 2406.05835; path aggregation PANet, arXiv 1803.01534.
    """

    def __init__(
        self,
        dims: Sequence[int],
        *,
        scans: int = 1,
        routes: str | Sequence[str | Route] = "cross",
    ):
        super().__init__()
        self.dims = tuple(dims)
        pairs = list(pairwise(dims))

        def merge(fine: int, coarse: int, dim: int) -> ODSSBlock:
            return ODSSBlock(dim, in_dim=fine + coarse, scans=scans, proj_bias=False, routes=routes)

        self.top_down = nn.ModuleList(merge(a, b, a) for a, b in pairs)
        self.halve = nn.ModuleList(ConvNorm(a, a, 3, stride=2) for a, _ in pairs)
        self.bottom_up = nn.ModuleList(merge(a, b, b) for a, b in pairs)
        start_scans(self)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Merge maps (B, C_i, H_i, W_i); each is half as high and wide as the one before."""
        check_maps(maps, self.dims)
        maps = [m.permute(0, 2, 3, 1) for m in maps]
        for i, block in reversed(list(enumerate(self.top_down))):
            maps[i] = block(torch.cat([upsample(maps[i + 1], maps[i]), maps[i]], dim=-1))
        for i, (halve, block) in enumerate(zip(self.halve, self.bottom_up, strict=True)):
            maps[i + 1] = block(torch.cat([halve(maps[i]), maps[i + 1]], dim=-1))
        return tuple(m.permute(0, 3, 1, 2) for m in maps)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that set time scales, as in backbones."""
        return {name for name, _ in self.named_parameters() if name.endswith(Backbone.no_decay)}


def check_maps(maps: Sequence[Tensor], dims: Sequence[int]) -> None:
    """Refuse other maps than those of the channels that a module was made for."""
    channels = tuple(m.shape[1] for m in maps)
    if channels != dims:
        raise ValueError(f"maps have {channels} channels, expected {dims}")


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Nearest neighbours of x (B, H, W, C) at the height and width of a finer map."""
    return F.interpolate(x.permute(0, 3, 1, 2), like.shape[1:3]).permute(0, 2, 3, 1)


class MambaYOLOHead(nn.Module):
    """Decoupled anchor-free head: a box branch and a class branch a map.

    A box is the distances from its cell's centre to its left, top, right and bottom side, each the
    mean of a distribution over `bins` distances of 0 to bins - 1 strides.

    Args:
        dims: channels of the maps, finest first.
        num_classes: classes.
        strides: pixels from one cell of a map to the next.
        bins: distances that a side's distribution is over.
        prior: probability of every class at the start.

    Source: distribution of distances GFL, arXiv 2006.04388; the prior RetinaNet, arXiv 1708.02002.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int = 80,
        *,
        strides: Sequence[int] = (8, 16, 32),
        bins: int = 16,
        prior: float = 0.01,
    ):
        super().__init__()
        if len(strides) != len(dims):
            raise ValueError(
                f"strides is {tuple(strides)}, expected one for each of {len(dims)} maps"
            )
        self.dims, self.num_classes, self.strides = tuple(dims), num_classes, tuple(strides)
        box_dim = max(16, dims[0] // 4, 4 * bins)
        class_dim = max(dims[0], min(num_classes, 100))
        self.box = nn.ModuleList(branch(dim, box_dim, 4 * bins) for dim in dims)
        self.cls = nn.ModuleList(branch(dim, class_dim, num_classes) for dim in dims)
        for layers in self.cls:
            nn.init.constant_(layers[-1].bias, -math.log((1 - prior) / prior))
        # A constant, yet among the parameters, where checkpoints and published counts have it.
        self.bins = nn.Parameter(torch.arange(bins, dtype=torch.float), requires_grad=False)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) → raw maps (B, 4·bins + num_classes, H_i, W_i), boxes first."""
        check_maps(maps, self.dims)
        raw = []
        for x, box, cls in zip(maps, self.box, self.cls, strict=True):
            x = x.permute(0, 2, 3, 1)
            raw.append(torch.cat([box(x), cls(x)], dim=-1).permute(0, 3, 1, 2))
        return tuple(raw)

    def decode(self, raw: Sequence[Tensor]) -> Tensor:
        """Raw maps → predictions (B, 4 + num_classes, cells), map by map, row by row.

        A prediction is the box's centre x and y, width and height in pixels, then the classes'
        probabilities; in float32 at least.
        """
        parts = (4 * len(self.bins), self.num_classes)
        sides, classes = flatten(raw).split(parts, dim=1)
        start, end = self.boxes(sides, *self.cells(raw)).chunk(2, dim=1)
        return torch.cat([(start + end) / 2, end - start, classes.sigmoid()], dim=1)

    def cells(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Centres (2, cells), x then y, and strides (cells,) in pixels of maps (B, ·, H_i, W_i)."""
        found = [grid(*m.shape[2:], s, m.device) for m, s in zip(maps, self.strides, strict=True)]
        return tuple(torch.cat(values, dim=-1) for values in zip(*found, strict=True))

    def boxes(self, sides: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
        """Corners (B, 4, cells), x1 y1 x2 y2 in pixels, of logits (B, 4·bins, cells).

        Args:
            sides: logits of the distances to the left, top, right and bottom side.
            centres: as `cells` gives them.
            strides: as `cells` gives them.
        """
        chances = sides.unflatten(1, (4, len(self.bins))).softmax(2)
        distances = (chances * self.bins.to(sides.dtype)[:, None]).sum(2) * strides
        before, after = distances.chunk(2, dim=1)
        return torch.cat([centres - before, centres + after], dim=1)


def flatten(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H_i, W_i) → (B, C, cells), map by map, row by row, in float32 at least."""
    flat = torch.cat([m.flatten(2) for m in maps], dim=2)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def grid(H: int, W: int, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres (2, H·W) and strides (H·W,) of the cells of one map, in pixels."""
    cell = torch.arange(H * W, device=device)
    centres = (torch.stack([cell % W, cell // W]) + 0.5) * stride
    return centres, torch.full_like(centres[0], stride)


def branch(dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """Two 3x3 convolutions, then a linear layer, on maps: (B, H, W, C) → (B, H, W, C')."""
    convs = ConvNorm(dim, hidden, 3), ConvNorm(hidden, hidden, 3)
    return nn.Sequential(*convs, Linear(hidden, out_dim))


class MambaYOLODetector(LoadsOfficial):
    """Backbone, neck and head, for images of any size.

    An image is padded with zeros on the right and at the bottom to a multiple of the largest
    stride, 32; cells of the padding give predictions like all others.

    Args:
        backbone: a model with timm's `forward_intermediates`; its last maps go to the neck.
        neck: maps (B, C_i, H_i, W_i) → maps, such as `MambaYOLONeck`.
        head: a `MambaYOLOHead`, for as many maps.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: MambaYOLOHead):
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, in_chans, H, W) → raw maps, as `MambaYOLOHead` gives them."""
        levels, multiple = len(self.head.strides), max(self.head.strides)
        maps = self.backbone.forward_intermediates(
            pad_to_patches(x, multiple, multiple), indices=levels, intermediates_only=True
        )
        return self.head(self.neck(maps))

    def predict(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) → all predictions, as `MambaYOLOHead.decode` gives them."""
        return self.head.decode(self(x))

    @staticmethod
    def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict:
        """The authors' state_dict under our names and shapes; ours is returned unchanged.

        Nothing is dropped.
        """
        if not is_official(state_dict):
            return dict(state_dict)
        official = rename(state_dict, ((r"^model\.", ""),))
        backbone = mamba_yolo.checkpoint_filter_fn(official, model.backbone)
        others = {k: v for k, v in official.items() if k.startswith(NECK_AND_HEAD)}
        others = match_shapes(rename(others, (*NECK_AND_HEAD_NAMES, *BLOCK_NAMES)), model)
        if "head.bins" in others:
            others["head.bins"] = others["head.bins"].flatten()
        return {f"backbone.{k}": v for k, v in backbone.items()} | others


NECK_AND_HEAD_NAMES = (
    (r"^11\.", "neck.top_down.1."),
    (r"^14\.", "neck.top_down.0."),
    (r"^15\.", "neck.halve.0."),
    (r"^17\.", "neck.bottom_up.0."),
    (r"^18\.", "neck.halve.1."),
    (r"^20\.", "neck.bottom_up.1."),
    (r"^21\.cv2\.", "head.box."),
    (r"^21\.cv3\.", "head.cls."),
    (r"^21\.dfl\.conv\.weight$", "head.bins"),
)


def mamba_yolo_detector(
    name: str = "mamba_yolo_tiny",
    *,
    num_classes: int = 80,
    scans: int | None = None,
    routes: str | Sequence[str | Route] = "cross",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **backbone: Any,
) -> MambaYOLODetector:
    """The detector of a registered backbone.

    Args:
        name: the backbone, such as "mamba_yolo_large".
        num_classes: classes of the head.
        scans: scans of a block of the neck; None for as many as the first stage has blocks, as in
            every published model.
        routes: scan routes of backbone and neck, as in `Scan2d`.
        device: where the parameters are made.
        dtype: type of the parameters.
        **backbone: further arguments of the backbone, such as `drop_path_rate`.
    """
    model = timm.create_model(name, num_classes=0, routes=routes, device=device, **backbone)
    dims = [info["num_chs"] for info in model.feature_info[1:]]
    strides = [info["reduction"] for info in model.feature_info[1:]]
    if scans is None:
        scans = len(model.stages[0].blocks)
    with torch.device(device or torch.get_default_device()):
        neck = MambaYOLONeck(dims, scans=scans, routes=routes)
        head = MambaYOLOHead(dims, num_classes, strides=strides)
    return MambaYOLODetector(model, neck, head).to(dtype=dtype)


def from_official_kwargs(cfg: Mapping[str, Any], ch: int = 3, nc: int | None = None) -> dict:
    """Arguments of `mamba_yolo_detector` for those of the authors' `DetectionModel`.

    Args:
        cfg: the model's YAML file as a dictionary; its "scale" is the name of one of its "scales"
            or the depth factor, width factor and largest width themselves.
        ch: channels of the image.
        nc: classes; None for those of cfg.

    Raises:
        ValueError: for layers that no published model has, naming the first.
    """
    repeats = [n for _, n, module, _ in cfg["backbone"] if module == "VSSBlock"]
    refuse_other_layers("backbone", cfg["backbone"], official_backbone(repeats))
    refuse_other_layers("head", cfg["head"], OFFICIAL_HEAD)
    scale = cfg["scale"]
    depth, width, largest = cfg["scales"][scale] if isinstance(scale, str) else scale
    return {
        "in_chans": ch,
        "num_classes": cfg["nc"] if nc is None else nc,
        "depths": [max(round(n * depth), 1) for n in repeats],
        "dims": [8 * math.ceil(min(c, largest) * width / 8) for c in OFFICIAL_WIDTHS],
        "scans": max(round(3 * depth), 1),
    }


def refuse_other_layers(part: str, layers: Sequence, published: Sequence) -> None:
    """Refuse a part of the authors' cfg that differs from the published one, naming the layer."""
    for i, (layer, expected) in enumerate(zip_longest(layers, published)):
        if layer != expected:
            raise ValueError(f"cfg[{part!r}][{i}] is {layer!r}, expected {expected!r}")


def official_backbone(repeats: Sequence[int]) -> list:
    """The layers of the authors' backbone: where from, how many, module and arguments."""
    layers = [[-1, 1, "SimpleStem", [128, 3]]]
    for width, n in zip(OFFICIAL_WIDTHS, repeats, strict=False):  # compared next
        layers += [[-1, 1, "VisionClueMerge", [width]], [-1, n, "VSSBlock", [width]]]
    del layers[1]  # the first stage follows the stem
    return [*layers, [-1, 1, "SPPF", [1024, 5]]]


OFFICIAL_WIDTHS = (128, 256, 512, 1024)
OFFICIAL_HEAD = [
    [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    [[-1, 5], 1, "Concat", [1]],
    [-1, 3, "XSSBlock", [512]],
    [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
    [[-1, 3], 1, "Concat", [1]],
    [-1, 3, "XSSBlock", [256]],
    [-1, 1, "Conv", [256, 3, 2]],
    [[-1, 11], 1, "Concat", [1]],
    [-1, 3, "XSSBlock", [512]],
    [-1, 1, "Conv", [512, 3, 2]],
    [[-1, 8], 1, "Concat", [1]],
    [-1, 3, "XSSBlock", [1024]],
    [[14, 17, 20], 1, "Detect", ["nc"]],
]
