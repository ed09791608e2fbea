"""Mamba-YOLO's assignment and losses, beside a computation cell by cell."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_mamba_yolo_mm import build, sample
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from statescan.mm.models.task_aligned import TaskAligned


def complete_iou(a, b):
    """Of two boxes, by the definition (arXiv 1911.08287)."""
    iou = box_iou(a[None], b[None]).item()
    (ax, ay, ax2, ay2), (bx, by, bx2, by2) = a.tolist(), b.tolist()
    apart = ((ax + ax2 - bx - bx2) / 2) ** 2 + ((ay + ay2 - by - by2) / 2) ** 2
    hull = (max(ax2, bx2) - min(ax, bx)) ** 2 + (max(ay2, by2) - min(ay, by)) ** 2
    turn = math.atan((bx2 - bx) / (by2 - by)) - math.atan((ax2 - ax) / (ay2 - ay))
    shape = 4 / math.pi**2 * turn**2
    return iou - apart / hull - shape**2 / (1 - iou + shape + 1e-7)


def assign(boxes, scores, centres, objects, labels, topk, alpha=0.5, beta=6.0):
    """Object and quality of each cell, by loops."""
    index, quality = [-1] * len(boxes), [0.0] * len(boxes)
    overlap, alignment, choice = {}, {}, {}
    for g, (x, y, x2, y2) in enumerate(objects.tolist()):
        for a, (cx, cy) in enumerate(centres.tolist()):
            inside = x < cx < x2 and y < cy < y2
            overlap[g, a] = max(complete_iou(boxes[a], objects[g]), 0) if inside else 0
            alignment[g, a] = scores[a, labels[g]].item() ** alpha * overlap[g, a] ** beta
        order = sorted(range(len(boxes)), key=lambda a: -alignment[g, a])[:topk]
        choice[g] = [a for a in order if alignment[g, a] > 0]
    for a in range(len(boxes)):
        takers = [g for g in choice if a in choice[g]]
        if takers:
            index[a] = max(takers, key=lambda g: overlap[g, a])
    for g in choice:
        own = [a for a in choice[g] if index[a] == g]
        for a in own:
            best = max(alignment[g, b] for b in own)
            quality[a] = alignment[g, a] / best * max(overlap[g, b] for b in own)
    return index, quality


def scene(seed=0, cells=6, classes=3):
    """Cells of stride 8, boxes near what they see, and objects that share some of them."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.arange(cells) + 0.5) * 8
    centres = torch.cartesian_prod(x, x).flip(1)
    objects = torch.tensor([[1.0, 2, 30, 26], [10, 6, 44, 40], [25, 20, 47, 47]])
    away = (torch.rand(len(centres), 4, generator=g) * 20 + 4) * torch.tensor([-1, -1, 1, 1])
    boxes = centres.repeat(1, 2) + away
    scores = torch.rand(len(centres), classes, generator=g)
    return boxes, scores, centres, objects, torch.tensor([0, 2, 2])


@pytest.mark.parametrize("topk", [1, 4, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_assignment(seed, topk):
    parts = scene(seed)
    got = TaskAligned(topk=topk)(*parts)
    index, quality = assign(*parts, topk)
    assert len({i for i in index if i >= 0}) == 3
    weighs = got.quality > 0  # cells without any overlap may have an object, and weigh nothing
    assert torch.where(weighs, got.index, -1).tolist() == index
    torch.testing.assert_close(got.quality, torch.tensor(quality), rtol=1e-4, atol=1e-6)


def test_a_cell_of_two_objects_has_the_one_it_overlaps_most():
    boxes, centres = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[4.0, 4]])
    objects = torch.tensor([[0.0, 0, 12, 12], [0, 0, 9, 8], [0, 0, 30, 30]])
    got = TaskAligned()(boxes, torch.ones(1, 1), centres, objects, torch.zeros(3, dtype=int))
    assert got.index.tolist() == [1]
    assert got.quality[0] == pytest.approx(complete_iou(boxes[0], objects[1]), rel=1e-5)


@pytest.mark.parametrize(
    "objects",
    [
        torch.zeros(0, 4),
        torch.tensor([[5.0, 5, 6, 6]]),  # a pixel between the cells' centres
        torch.tensor([[4.0, 4, 4, 4]]),  # nothing at all
        torch.tensor([[40.0, 4, 20, 9]]),  # inside out
    ],
    ids=["none", "one pixel", "no area", "inside out"],
)
def test_objects_that_get_no_cell(objects):
    boxes, scores, centres, *_ = scene()
    boxes[3, 2:] = boxes[3, :2]  # a prediction without area
    got = TaskAligned()(boxes, scores, centres, objects, torch.zeros(len(objects), dtype=int))
    assert (got.index == -1).all()
    assert (got.quality == 0).all()


@torch.no_grad()
def expected_losses(model, images, samples):
    """The three losses, cell by cell."""
    head = model.bbox_head
    classes, sides = model(images, mode="tensor")
    raw = model.plain()(images)
    total, cross, box, distances = 0.0, 0.0, 0.0, 0.0
    for b, one in enumerate(samples):
        logits, cells = [], []
        for m, stride in zip(raw, (8, 16, 32), strict=True):
            for row in range(m.shape[2]):
                for column in range(m.shape[3]):
                    logits.append(m[b, :, row, column])
                    cells.append(((column + 0.5) * stride, (row + 0.5) * stride, stride))
        boxes = []
        for values, (x, y, stride) in zip(logits, cells, strict=True):
            left, up, right, down = (
                sum(i * p for i, p in enumerate(values[16 * k : 16 * k + 16].softmax(0).tolist()))
                for k in range(4)
            )
            boxes.append(
                [x - left * stride, y - up * stride, x + right * stride, y + down * stride]
            )
        boxes, logits = torch.tensor(boxes), torch.stack(logits)
        scores = logits[:, 64:].sigmoid()
        objects, labels = one.gt_instances.bboxes, one.gt_instances.labels
        centres = torch.tensor(cells)[:, :2]
        index, quality = assign(boxes, scores, centres, objects, labels, topk=10)
        wanted = torch.zeros_like(scores)
        for a, (g, q) in enumerate(zip(index, quality, strict=True)):
            if g < 0:
                continue
            wanted[a, labels[g]] = q
            box += q * (1 - complete_iou(boxes[a], objects[g]))
            x, y, stride = cells[a]
            x1, y1, x2, y2 = objects[g].tolist()
            for k, far in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                far = min(far / stride, 14.99)
                log = logits[a, 16 * k : 16 * k + 16].log_softmax(0)
                low = int(far)
                distances -= q / 4 * ((low + 1 - far) * log[low] + (far - low) * log[low + 1])
        cross += F.binary_cross_entropy(scores, wanted, reduction="sum")
        total += sum(quality)
    scale = len(samples) / max(total, 1)
    gains = head.gains
    assert len(classes) == len(sides) == 3
    return {
        "loss_cls": gains["cls"] * scale * cross,
        "loss_box": gains["box"] * scale * box,
        "loss_dfl": gains["dfl"] * scale * distances,
    }


def test_losses_cell_by_cell():
    model, images = build(), torch.rand(2, 3, 64, 96)
    samples = [
        sample([[2, 3, 60, 50], [40, 8, 95, 63]], [0, 2], (64, 96)),
        sample([[20, 20, 44, 40]], [1], (64, 96)),
    ]
    got = model(images, samples, mode="loss")
    want = expected_losses(model, images, samples)
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert value > 0
        assert got[key].item() == pytest.approx(float(value), rel=1e-4), key


def test_gradients_reach_everything():
    model = build().train()
    model.bbox_head.assign = TaskAligned(topk=100)  # cells of all maps
    samples = [sample([[2, 3, 60, 50]], [0]), sample([[5, 9, 33, 40], [20, 6, 60, 60]], [1, 2])]
    losses = model(torch.rand(2, 3, 64, 64), samples, mode="loss")
    sum(losses.values()).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    still = {
        n
        for n, p in model.named_parameters()
        if n in trained and (p.grad is None or not p.grad.abs().max() > 0)
    }
    assert not still
    assert {n for n, _ in model.named_parameters()} - trained == {"bbox_head.head.bins"}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_images_without_objects_teach_that_there_are_none():
    model = build().train()
    losses = model(torch.rand(2, 3, 64, 64), [sample(), sample()], mode="loss")
    assert losses["loss_cls"] > 0
    assert losses["loss_box"] == losses["loss_dfl"] == 0
    sum(losses.values()).backward()  # every parameter takes part, as distributed training wants
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_losses_in_half_precision_are_those_of_float32():
    model, images, samples = build(), torch.rand(1, 3, 64, 64), [sample([[2, 3, 60, 50]], [0])]
    wanted = model(images, samples, mode="loss")
    with torch.autocast("cpu", torch.bfloat16):
        got = model(images, samples, mode="loss")
    for key, value in wanted.items():
        assert got[key].dtype == torch.float32
        torch.testing.assert_close(got[key], value, rtol=0.1, atol=0.1)


def coloured(seed):
    """An image of 64 x 64 in [0, 1] with a rectangle of each colour, and its sample."""
    g = torch.Generator().manual_seed(seed)
    image, boxes = torch.rand(3, 64, 64, generator=g) * 0.2, []
    for label in range(3):
        x, y = 4 + 20 * label, int(torch.randint(4, 36, (), generator=g))
        boxes.append([x, y, x + 16, y + 24])
        image[label, y : y + 24, x : x + 16] = 1
    return image, sample(boxes, [0, 1, 2])


def test_four_images_are_learnt():
    model = build(dims=(8, 16, 24, 32), depths=(1, 1, 2, 1)).train()
    images, samples = zip(*map(coloured, range(4)), strict=True)
    images, optimizer = torch.stack(images), torch.optim.AdamW(model.parameters(), 4e-3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.2  # of a short training
    history = []
    for _ in range(40):
        loss = sum(model(images, samples, mode="loss").values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 3
    with torch.no_grad():
        found = model.eval()(images, samples, mode="predict")
    metric = MeanAveragePrecision()
    predicted = [fields(s.pred_instances, "boxes", "labels", "scores") for s in found]
    metric.update(predicted, [fields(s.gt_instances, "boxes", "labels") for s in found])
    assert metric.compute()["map"] > 0.5


def fields(instances, *names):
    """As torchmetrics takes boxes."""
    return {name: instances["bboxes" if name == "boxes" else name] for name in names}


def test_each_image_counts_as_much_as_published():
    """Twice the images give twice the losses: the mean over the qualities, times the images."""
    model, images, one = build(), torch.rand(1, 3, 64, 64), [sample([[2, 3, 60, 50]], [0])]
    torch.manual_seed(0)
    for p in model.bbox_head.head.cls.parameters():
        p.data.uniform_(0, 1)  # so that the qualities add up to more than 1
    single = model(images, one, mode="loss")
    double = model(images.repeat(2, 1, 1, 1), one * 2, mode="loss")
    for key, value in single.items():
        torch.testing.assert_close(double[key], 2 * value, rtol=1e-4, atol=1e-4)
