"""Which cells of a detector answer for which object: task-aligned assignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import complete_box_iou

TINY = torch.finfo(torch.float32).tiny


class Targets(NamedTuple):
    """What each cell is to predict.

    Attributes:
        index: (cells,) number of the cell's object; -1 for none.
        quality: (cells,) in [0, 1], the probability that its class is to get.
    """

    index: Tensor
    quality: Tensor


@dataclass(frozen=True)
class TaskAligned:
    """Each object gets the cells inside of it that both classify and locate it best.

    A cell's alignment with an object is ``probability**alpha * overlap**beta``, the overlap being
    the complete IoU of its box. A cell that several objects choose goes to the one it overlaps
    most. Qualities are alignments, scaled so that an object's best cell gets its best overlap.

    MMDetection's assigner of this name takes the plain IoU, and chooses the cells before it leaves
    out those outside of the object, so that early boxes leave many objects with none.

    Args:
        topk: Most cells that an object gets.
        alpha: Power of the probability.
        beta: Power of the overlap.

    Source: TOOD, arXiv 2108.07755, with the overlap and the constants that YOLOs take.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0

    @torch.no_grad()
    def __call__(
        self, boxes: Tensor, scores: Tensor, centres: Tensor, objects: Tensor, labels: Tensor
    ) -> Targets:
        """Assign the cells of one image.

        Args:
            boxes: (cells, 4) predicted corners, x1 y1 x2 y2 in pixels.
            scores: (cells, classes) predicted probabilities.
            centres: (cells, 2) the cells' centres in pixels.
            objects: (objects, 4) true corners.
            labels: (objects,) their classes.
        """
        if not len(objects):
            return Targets(labels.new_full(scores.shape[:1], -1), scores.new_zeros(len(scores)))
        inside = _inside(centres, objects)
        overlap = complete_box_iou(with_area(objects), with_area(boxes)).clamp(min=0)
        overlap = torch.where(inside, overlap, 0)
        alignment = scores[:, labels].T ** self.alpha * overlap**self.beta
        own = _settle(self._choose(alignment) & inside, overlap)
        alignment, overlap = alignment * own, overlap * own
        quality = alignment / alignment.amax(1, keepdim=True).clamp(min=TINY)
        quality = quality * overlap.amax(1, keepdim=True)
        index = torch.where(own.any(0), own.int().argmax(0), -1)
        return Targets(index, quality.sum(0))

    def _choose(self, alignment: Tensor) -> Tensor:
        """Where an object's best cells are: (objects, cells)."""
        best = alignment.topk(min(self.topk, alignment.shape[1]), dim=1).indices
        return torch.zeros_like(alignment, dtype=torch.bool).scatter(1, best, True)


def with_area(boxes: Tensor, side: float = 1e-3) -> Tensor:
    """Boxes (..., 4) none of which is narrower or lower than ``side``: the complete IoU divides."""
    start, end = boxes.chunk(2, dim=-1)
    return torch.cat([start, torch.maximum(end, start + side)], dim=-1)


def _inside(centres: Tensor, objects: Tensor) -> Tensor:
    """Whether a cell's centre lies in an object: (objects, cells)."""
    start, end = objects[:, None].chunk(2, dim=-1)
    return ((centres > start) & (centres < end)).all(-1)


def _settle(chosen: Tensor, overlap: Tensor) -> Tensor:
    """The choice (objects, cells), where no cell has two objects any more."""
    best = torch.where(chosen, overlap, -1).argmax(0)
    numbers = torch.arange(len(chosen), device=chosen.device)
    return chosen & (numbers[:, None] == best)
