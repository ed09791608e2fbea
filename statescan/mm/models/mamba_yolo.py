"""Mamba-YOLO as a detector of MMDetection: ``custom_imports=["statescan.mm.models.mamba_yolo"]``.

It is not among what ``statescan.mm`` imports, which works without MMDetection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.losses.gfocal_loss import DistributionFocalLoss
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, complete_box_iou_loss

from ...backbones import MambaYOLODetector, MambaYOLOHead, MambaYOLONeck
from ...backbones.mamba_yolo import is_official
from ...backbones.mamba_yolo_detector import flatten
from ...scans import Route
from .backbone import TakesOfficial
from .task_aligned import Targets, TaskAligned, with_area

GAINS = {"cls": 0.5, "box": 7.5, "dfl": 1.5}


@MODELS.register_module()
class MambaYoloNeck(MambaYOLONeck):
    """Path aggregation with XSS blocks: maps (B, C_i, H_i, W_i) → as many like them.

    Args:
        in_channels: Channels of the maps, finest first.
        scans: Scans of a block; as many as the backbone's first stage has blocks, as published.
        routes: Scan routes, as in `Scan2d`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        scans: int = 1,
        routes: str | Sequence[str | Route] = "cross",
    ):
        super().__init__(in_channels, scans=scans, routes=routes)


@MODELS.register_module()
class MambaYoloHead(BaseDenseHead):
    """Decoupled anchor-free head with its losses and its suppression.

    Losses, all over the sum of the qualities of a batch's cells: cross entropy of every cell and
    class with its quality; for a cell that has an object, times its quality, the complete IoU of
    its box and the distribution focal loss of its sides. As YOLOs do, they are multiplied by the
    number of images in the batches of all processes, which the published learning rates expect.

    Args:
        num_classes: Classes.
        in_channels: Channels of the maps, finest first.
        strides: Pixels from one cell of a map to the next.
        bins: Distances that a side's distribution is over.
        gains: Factors of the losses ``cls``, ``box`` and ``dfl``.
        assigner: Arguments of `TaskAligned`.
        train_cfg: Not used; MMDetection's detectors hand it over.
        test_cfg: ``score_thr``, ``nms_pre`` (candidates that enter the suppression), ``nms``
            (``class_agnostic=True`` in it for one over all classes) and ``max_per_img``.
        init_cfg: As in MMEngine's modules.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        strides: Sequence[int] = (8, 16, 32),
        bins: int = 16,
        gains: Mapping[str, float] = GAINS,
        assigner: Mapping[str, float] | None = None,
        train_cfg: dict | None = None,
        test_cfg: ConfigDict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.head = MambaYOLOHead(in_channels, num_classes, strides=strides, bins=bins)
        self.gains, self.assign = dict(gains), TaskAligned(**assigner or {})
        self.side_loss = DistributionFocalLoss(reduction="none")
        self.test_cfg = test_cfg

    def forward(self, maps: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Logits of the classes (B, classes, H_i, W_i) and of the sides (B, 4·bins, H_i, W_i)."""
        parts = (4 * len(self.head.bins), self.head.num_classes)
        sides, classes = zip(*(m.split(parts, dim=1) for m in self.head(maps)), strict=True)
        return classes, sides

    def decode(self, classes: Sequence[Tensor], sides: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Corners (B, cells, 4), x1 y1 x2 y2 in pixels, and probabilities (B, cells, classes)."""
        boxes = self.head.boxes(flatten(sides), *self.head.cells(sides))
        return boxes.transpose(1, 2), flatten(classes).sigmoid().transpose(1, 2)

    def loss_by_feat(
        self,
        classes: Sequence[Tensor],
        sides: Sequence[Tensor],
        instances: list[InstanceData],
        metas: list[dict],
        ignored: list[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """The three losses of a batch.

        Args:
            classes: Logits, as `forward` gives them.
            sides: Logits, as `forward` gives them.
            instances: True ``bboxes`` (objects, 4) and ``labels`` of each image.
            metas: Not used.
            ignored: Not used: crowds are background, as published.
        """
        boxes, scores = self.decode(classes, sides)
        centres, strides = self.head.cells(sides)
        found = [
            self.assign(b, s, centres.T, i.bboxes, i.labels)
            for b, s, i in zip(boxes, scores, instances, strict=True)
        ]
        wanted = _wanted_classes(found, instances, scores)
        total = wanted.sum().clamp(min=1)
        taken = torch.stack([t.index >= 0 for t in found])
        true, weight = _true_boxes(found, instances, boxes), wanted.sum(2)[taken]
        logits = flatten(classes).transpose(1, 2)
        losses = {
            "cls": F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum"),
            "box": (weight * box_losses(boxes[taken], true)).sum(),
            "dfl": (weight * self._side_losses(sides, centres, strides, taken, true)).sum(),
        }
        scale = len(boxes) * get_world_size() / total
        return {f"loss_{k}": v * self.gains[k] * scale for k, v in losses.items()}

    def _side_losses(
        self,
        sides: Sequence[Tensor],
        centres: Tensor,
        strides: Tensor,
        taken: Tensor,
        true: Tensor,
    ) -> Tensor:
        """Distribution focal loss, the mean of the four sides, of each cell that has an object."""
        bins = len(self.head.bins)
        logits = flatten(sides).unflatten(1, (4, bins)).permute(0, 3, 1, 2)[taken]
        cell = taken.nonzero()[:, 1]
        before, after = centres.T[cell] - true[:, :2], true[:, 2:] - centres.T[cell]
        distances = torch.cat([before, after], dim=1) / strides[cell, None]
        distances = distances.clamp(0, bins - 1.01)  # between two bins, the last one included
        return self.side_loss(logits.flatten(0, 1), distances.flatten()).view(-1, 4).mean(1)

    def predict_by_feat(
        self,
        classes: Sequence[Tensor],
        sides: Sequence[Tensor],
        batch_img_metas: list[dict],
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of each image: ``bboxes`` (n, 4), ``scores``, ``labels``, best first.

        Args:
            classes: Logits, as `forward` gives them.
            sides: Logits, as `forward` gives them.
            batch_img_metas: ``img_shape`` of each image; to rescale, also ``ori_shape`` and
                ``scale_factor``.
            cfg: Instead of ``test_cfg``.
            rescale: Give the boxes in the original image's pixels.
            with_nms: Suppress what overlaps.
        """
        cfg = _all_at_once(self.test_cfg if cfg is None else cfg)
        found = []
        for boxes, scores, meta in zip(*self.decode(classes, sides), batch_img_metas, strict=True):
            scores, labels, cells, _ = filter_scores_and_topk(scores, cfg.score_thr, cfg.nms_pre)
            boxes = clip_boxes_to_image(boxes[cells], _size(meta, rescale))
            results = InstanceData(bboxes=boxes, scores=scores, labels=labels)
            found.append(self._bbox_post_process(results, cfg, rescale, with_nms, meta))
        return found


@MODELS.register_module()
class MambaYolo(TakesOfficial, SingleStageDetector):
    """A detector of `StateScanBackbone`, `MambaYoloNeck` and `MambaYoloHead`.

    It loads the authors' weights of the whole detector wherever it loads its own.
    """

    def plain(self) -> MambaYOLODetector:
        """The same detector without MMDetection, on the same weights."""
        return MambaYOLODetector(self.backbone.model, self.neck, self.bbox_head.head)

    def rename(self, state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """The authors' weights under a prefix, if that is what they are, by our names."""
        theirs = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
        weights = {k.removeprefix(prefix): v for k, v in theirs.items()}
        if not is_official(weights):
            return dict(state_dict)
        plain = self.plain()
        own = plain.checkpoint_filter_fn(weights, plain)
        others = {k: v for k, v in state_dict.items() if k not in theirs}
        return others | {prefix + _inside_mmdet(k): v for k, v in own.items()}


class WithoutSuppression(nn.Module):
    """What is exported of a detector: padded and normalised images → all boxes and probabilities.

    Images (B, 3, H, W) as the detector's ``data_preprocessor`` gives them → corners (B, cells, 4),
    x1 y1 x2 y2 in pixels, and probabilities (B, cells, classes).

    Args:
        detector: A `MambaYolo`.
    """

    def __init__(self, detector: MambaYolo):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Detect, and suppress nothing."""
        return self.detector.bbox_head.decode(*self.detector(images, mode="tensor"))


def _wanted_classes(found: list[Targets], instances: list[InstanceData], scores: Tensor) -> Tensor:
    """The probabilities (B, cells, classes) that cells are to give."""
    wanted = torch.zeros_like(scores)
    for image, (index, quality), true in zip(wanted, found, instances, strict=True):
        (cell,) = (index >= 0).nonzero(as_tuple=True)
        image[cell, true.labels[index[cell]]] = quality[cell].to(image)
    return wanted


def box_losses(boxes: Tensor, true: Tensor) -> Tensor:
    """One minus the complete IoU of each pair of boxes (n, 4).

    MMDetection's CIoULoss leaves the term of the aspect ratio out where the IoU is below 0.5.
    """
    return complete_box_iou_loss(with_area(boxes), with_area(true))


def _true_boxes(found: list[Targets], instances: list[InstanceData], boxes: Tensor) -> Tensor:
    """The objects' corners (n, 4), for all cells of the batch that have one, in order."""
    parts = zip(found, instances, strict=True)
    return torch.cat([i.bboxes[t.index[t.index >= 0]].to(boxes) for t, i in parts])


def _all_at_once(cfg: ConfigDict) -> ConfigDict:
    """The settings, with which mmcv suppresses over all classes where it is told to.

    From 10,000 boxes on it would else go class by class all the same.
    """
    if not cfg.nms.get("class_agnostic"):
        return cfg
    return ConfigDict({**cfg, "nms": {**cfg.nms, "split_thr": float("inf")}})


def _size(meta: dict, rescale: bool) -> tuple[float, float]:
    """Height and width, in the network's pixels, that boxes are cut to: without the padding."""
    if not rescale:
        return meta["img_shape"][:2]
    (height, width), (across, down) = meta["ori_shape"][:2], meta["scale_factor"]
    return height * down, width * across


def _inside_mmdet(name: str) -> str:
    """A weight's name in MMDetection's detector by its name in the plain one."""
    part, _, rest = name.partition(".")
    return {"backbone": "backbone.model.", "neck": "neck.", "head": "bbox_head.head."}[part] + rest
