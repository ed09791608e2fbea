"""Suppression and overlaps of boxes: (N, 4), x1 y1 x2 y2."""

import numpy as np
import torch
import torchvision
from torch import Tensor

from .differentiate import full_precision


def _overlap(boxes1: Tensor, boxes2: Tensor, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of both and of what they share; boxes broadcast over all but the last axis."""
    size1, size2 = (boxes[..., 2:] - boxes[..., :2] + offset for boxes in (boxes1, boxes2))
    start = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    end = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    return size1.prod(-1), size2.prod(-1), (end - start + offset).clamp(min=0).prod(-1)


def _iou(boxes1: Tensor, boxes2: Tensor, offset: int = 0) -> Tensor:
    area1, area2, shared = _overlap(boxes1, boxes2, offset)
    return shared / (area1 + area2 - shared)


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fills `ious`: (N,) of pairs where `aligned`, else (N, M); mode 1 divides by area 1 alone."""
    bboxes1, bboxes2 = full_precision(bboxes1), full_precision(bboxes2)
    first = bboxes1 if aligned else bboxes1[:, None]
    area1, area2, shared = _overlap(first, bboxes2, offset)
    ious.copy_(shared / (area1 if mode == 1 else area1 + area2 - shared))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that stay, by falling score."""
    boxes = full_precision(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32, and whole-numbered boxes often lie on the threshold.
    return torchvision.ops.nms(boxes, scores.to(boxes), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices by falling decayed score; fills as many rows of `dets` (N, 5) with box and score.

    `method`: 0 removes what overlaps, 1 decays it by 1 - IoU, 2 decays all by a Gaussian of it.
    """
    boxes, scores = full_precision(boxes), full_precision(scores).clone()
    left = torch.arange(len(boxes), device=boxes.device)
    kept = []
    while len(left):
        at = scores[left].argmax()
        best = left[at]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = torch.cat([left[:at], left[at + 1 :]])
        iou = _iou(boxes[best], boxes[left], offset)
        scores[left] *= _decay(iou, iou_threshold, sigma, method)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == 2:
        return torch.exp(-(iou**2) / sigma)
    weight = 1 - iou if method == 1 else torch.zeros_like(iou)
    return torch.where(iou >= float(np.float32(iou_threshold)), weight, 1.0)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """For each box that stays its index and those it suppresses; `dets`: (N, 5), with scores."""
    dets = full_precision(dets)
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left):
        best, left = left[0], left[1:]
        iou = _iou(dets[best, :4], dets[left, :4])
        suppressed = iou >= float(np.float32(iou_threshold))
        groups.append([best.item(), *left[suppressed].tolist()])
        left = left[~suppressed]
    return groups
