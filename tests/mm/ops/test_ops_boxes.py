"""Suppression and overlaps, through mmcv's own functions, against loops over numbers."""

import numpy as np
import ops_definitions as definitions
import pytest
import torch
from mmcv.ops import batched_nms, bbox_overlaps, nms, nms_match, soft_nms


def random_boxes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole-numbered boxes, whose IoU often lies on a threshold, and distinct scores."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 12, (n, 2), generator=generator)
    size = torch.randint(1, 10, (n, 2), generator=generator)
    scores = (torch.randperm(n, generator=generator) + 1) / (n + 1)
    return torch.cat([start, start + size], 1).float(), scores


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.6, 0.7])
def test_nms(threshold, offset):
    for seed in range(10):
        boxes, scores = random_boxes(40, seed)
        dets, kept = nms(boxes, scores, threshold, offset)
        expected = definitions.nms(boxes.tolist(), scores.tolist(), threshold, offset)
        assert kept.tolist() == expected
        torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_nms_on_the_threshold_as_float32():
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 6, 1]])  # IoU 6/10, above 0.6 only in float64
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1].tolist() == [0, 1]


def test_nms_of_nothing_and_in_half_precision():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    boxes, scores = random_boxes(20, 0)
    expected = nms(boxes, scores, 0.5)[1]
    assert nms(boxes.bfloat16(), scores, 0.5)[1].tolist() == expected.tolist()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method, offset):
    for seed in range(10):
        boxes, scores = random_boxes(25, seed)
        before = scores.clone()
        dets, kept = soft_nms(boxes, scores, 0.3, 0.5, 0.1, method, offset)
        numbers = boxes.tolist(), scores.tolist()
        expected = definitions.soft_nms(*numbers, 0.3, 0.5, 0.1, method, offset)
        assert kept.tolist() == [index for index, _ in expected]
        torch.testing.assert_close(dets[:, :4], boxes[kept])
        torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected]))
        assert scores.equal(before)


def test_soft_nms_of_nothing():
    dets, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert kept.tolist() == []


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_nms_match(threshold):
    for seed in range(10):
        boxes, scores = random_boxes(40, seed)
        dets = torch.cat([boxes, scores[:, None]], 1)
        groups = [group.tolist() for group in nms_match(dets, threshold)]
        assert groups == definitions.nms_match(dets.tolist(), threshold)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps(mode, offset):
    (first, _), (second, _) = random_boxes(7, 0), random_boxes(7, 1)
    found = bbox_overlaps(first, second, mode, offset=offset)

    def expected(a, b):
        value = definitions.iou(a, b, offset)
        areas = [np.prod([box[2] - box[0] + offset, box[3] - box[1] + offset]) for box in (a, b)]
        return value if mode == "iou" else value / (1 + value) * sum(areas) / areas[0]

    table = [[expected(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(found, torch.tensor(table, dtype=torch.float32))
    pairs = bbox_overlaps(first, second, mode, aligned=True, offset=offset)
    torch.testing.assert_close(pairs, found.diag())


@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_keeps_classes_apart(kind):
    boxes, scores = random_boxes(30, 3)
    labels = torch.arange(30) % 3
    _, kept = batched_nms(boxes, scores, labels, dict(type=kind, iou_threshold=0.5))
    each = {"nms": nms, "soft_nms": soft_nms}[kind]
    expected = set()
    for label in range(3):
        of_class = (labels == label).nonzero()[:, 0]
        found = each(boxes[of_class], scores[of_class], iou_threshold=0.5)[1]
        expected |= set(of_class[found].tolist())
    assert set(kept.tolist()) == expected
