"""Mamba-YOLO inside of MMDetection: parity, weights, predictions, export."""

import pytest
import torch
from golden import load_case
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torchvision.ops import box_iou

from statescan.mm import InputError
from statescan.mm.checkpoints.files import check_fits
from statescan.mm.models.backbone import rename_backbones

CASE = load_case("mamba_yolo/a")
OFFICIAL = CASE.group("sd.")
TEST = {
    "score_thr": 0.001,
    "nms_pre": 30000,
    "nms": {"type": "nms", "iou_threshold": 0.7},
    "max_per_img": 300,
}


def build(dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), classes=3, test=TEST):
    """The detector of the fixture's sizes."""
    from mmdet.registry import MODELS

    import statescan.mm.models.mamba_yolo  # noqa: F401

    torch.manual_seed(0)
    maps = list(dims[1:])
    sizes = {"dims": dims, "depths": depths, "out_indices": (1, 2, 3), "out_norms": False}
    config = {
        "type": "MambaYolo",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [0, 0, 0],
            "std": [255, 255, 255],
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": {"type": "StateScanBackbone", "name": "test_mamba_yolo", **sizes},
        "neck": {"type": "MambaYoloNeck", "in_channels": maps},
        "bbox_head": {"type": "MambaYoloHead", "num_classes": classes, "in_channels": maps},
        "test_cfg": test,
    }
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(ConfigDict(config)).eval()


def official():
    model = build()
    model.load_state_dict(OFFICIAL)
    return model


def sample(boxes=(), labels=(), shape=(64, 64), original=None, scale=(1.0, 1.0)):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    meta = {"img_shape": shape, "ori_shape": original or shape, "scale_factor": scale}
    found = DetDataSample(metainfo={**meta, "batch_input_shape": shape, "pad_shape": shape})
    found.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).view(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    return found


@pytest.fixture
def detector():
    return build()


@torch.no_grad()
def test_raw_maps_and_predictions_are_the_authors():
    model, x = official(), CASE.tensors["x"]
    classes, sides = model(x, mode="tensor")
    levels = zip(sides, classes, strict=True)
    raw = torch.cat([torch.cat(level, dim=1).flatten(2) for level in levels], dim=2)
    for got, key in ((raw, "logits"), (model.plain().predict(x), "pred")):
        want = CASE.tensors[key]
        assert (got - want).abs().max() < CASE.tolerance(key, 1.5e-5) * want.abs().max()
    boxes, scores = model.bbox_head.decode(classes, sides)
    (across, up, width, height), want = CASE.tensors["pred"][:, :4].unbind(1), CASE.tensors["pred"]
    torch.testing.assert_close(boxes[..., 0], across - width / 2, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(boxes[..., 3], up + height / 2, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(scores, want[:, 4:].transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_official_weights_by_every_way_of_loading():
    """Torch's own, MMEngine's, and the runner's strict check."""
    wanted = official().state_dict()
    by_mmengine = build()
    _load_checkpoint_to_model(by_mmengine, {"state_dict": dict(OFFICIAL)}, strict=True)
    renamed = rename_backbones(OFFICIAL, build())
    check_fits("a file", renamed, build())
    for got in (by_mmengine.state_dict(), renamed):
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[k], v) for k, v in wanted.items())
    short = rename_backbones({k: v for k, v in OFFICIAL.items() if "14.norm." not in k}, build())
    with pytest.raises(InputError, match=r"2 missing \(neck.top_down.0.norm1.bias\)"):
        check_fits("a file", short, build())


def test_our_own_weights_stay_as_they_are(detector):
    again = build()
    again.load_state_dict(detector.state_dict())
    assert rename_backbones(detector.state_dict(), again).keys() == detector.state_dict().keys()


def suppress(boxes, scores, threshold):
    """Indices that stay, by the definition."""
    left, kept = scores.argsort(descending=True, stable=True).tolist(), []
    while left:
        kept.append(left.pop(0))
        left = [i for i in left if box_iou(boxes[kept[-1], None], boxes[i, None]) <= threshold]
    return kept


def raw_maps(boxes, scores, model):
    """A head's maps of one image of 64 x 96, with these first cells' boxes and probabilities."""
    head = model.bbox_head.head
    sizes = [(8, 12), (4, 6), (2, 3)]
    classes = [torch.full((1, head.num_classes, *s), -20.0) for s in sizes]
    sides = [torch.full((1, 64, *s), -50.0) for s in sizes]
    for i, (box, row) in enumerate(zip(boxes, scores, strict=True)):
        centre = torch.tensor([i + 0.5, 0.5])
        distances = torch.cat([centre - box[:2] / 8, box[2:] / 8 - centre])
        for side, distance in enumerate(distances.tolist()):
            low = int(distance)
            share = min(max(distance - low, 1e-9), 1 - 1e-9)
            sides[0][0, side * 16 + low, 0, i] = torch.tensor(1 - share).log()
            sides[0][0, side * 16 + low + 1, 0, i] = torch.tensor(share).log()
        classes[0][0, :, 0, i] = row.logit()
    return classes, sides


@pytest.mark.parametrize("agnostic", [False, True], ids=["per class", "class-agnostic"])
@torch.no_grad()
def test_suppression(detector, agnostic):
    """A cell gives a detection for each of its classes; those of one class suppress each other."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 50, 40], [2, 0, 52, 40], [0, 1, 51, 41], [4, 0, 90, 60]])
    scores = torch.rand(4, 3, generator=generator) * 0.9 + 0.05
    cfg = ConfigDict({**TEST, "nms": {**TEST["nms"], "class_agnostic": agnostic}})
    (got,) = detector.bbox_head.predict_by_feat(
        *raw_maps(boxes, scores, detector), [{"img_shape": (64, 96)}], cfg
    )
    flat, labels = scores.flatten(), torch.arange(3).repeat(4)
    cells = torch.arange(4).repeat_interleave(3)
    if agnostic:
        kept = suppress(boxes[cells], flat, 0.7)
    else:
        groups = [(labels == c).nonzero().flatten() for c in range(3)]
        kept = [g[i].item() for g in groups for i in suppress(boxes[cells[g]], flat[g], 0.7)]
        kept.sort(key=lambda i: -flat[i])
    assert 1 < len(kept) < 12
    assert got.labels.tolist() == labels[kept].tolist()
    torch.testing.assert_close(got.scores, flat[kept])
    torch.testing.assert_close(got.bboxes, boxes[cells[kept]], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_boxes_in_the_original_image(detector):
    """Of an image of 32 x 48, enlarged to 64 x 96: its padding is not part of it."""
    boxes = torch.tensor([[0.0, 0, 50, 40], [-6, 2, 120, 90]])
    meta = {"img_shape": (96, 96), "ori_shape": (32, 48), "scale_factor": (2.0, 2.0)}
    maps = raw_maps(boxes, torch.tensor([[0.9, 0, 0], [0.8, 0, 0]]), detector)
    cfg = ConfigDict(TEST)
    (got,) = detector.bbox_head.predict_by_feat(*maps, [meta], cfg, rescale=True)
    want = torch.tensor([[0.0, 0, 25, 20], [0, 1, 48, 32]])
    torch.testing.assert_close(got.bboxes, want, rtol=1e-4, atol=1e-3)
    (got,) = detector.bbox_head.predict_by_feat(*maps, [meta], cfg)
    torch.testing.assert_close(got.bboxes[1], torch.tensor([0.0, 2, 96, 90]), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_zero_detections(detector):
    maps = raw_maps(torch.zeros(0, 4), torch.zeros(0, 3), detector)
    meta = {"img_shape": (64, 96), "ori_shape": (64, 96), "scale_factor": (1.0, 1.0)}
    (got,) = detector.bbox_head.predict_by_feat(*maps, [meta], rescale=True)
    assert got.bboxes.shape == (0, 4)
    assert got.scores.shape == got.labels.shape == (0,)


@pytest.mark.parametrize("agnostic", [False, True], ids=["per class", "class-agnostic"])
@torch.no_grad()
def test_ten_thousand_candidates(detector, agnostic):
    """One every two pixels, each overlapping its neighbours; 300 stay, in order, apart."""
    generator = torch.Generator().manual_seed(0)
    classes = tuple(torch.randn(1, 3, n, n, generator=generator) for n in (64, 32, 16))
    sides = tuple(torch.randn(1, 64, n, n, generator=generator) for n in (64, 32, 16))
    cfg = ConfigDict({**TEST, "nms": {**TEST["nms"], "class_agnostic": agnostic}})
    assert sum(c[0].numel() for c in classes) > 10_000
    (got,) = detector.bbox_head.predict_by_feat(classes, sides, [{"img_shape": (512, 512)}], cfg)
    assert len(got.bboxes) == 300
    assert (got.scores.diff() <= 0).all()
    same = torch.ones(300, 300) if agnostic else got.labels[:, None] == got.labels
    assert ((box_iou(got.bboxes, got.bboxes) * same).fill_diagonal_(0) <= 0.7 + 1e-5).all()


@pytest.mark.parametrize("shape", [(300, 4000), (1, 1), (33, 70)], ids=str)
def test_images_far_from_square(detector, shape):
    """As they are: only padded to multiples of 32."""
    image = torch.randint(0, 255, (3, *shape), dtype=torch.uint8)
    found = sample(shape=shape)
    (got,) = detector.test_step({"inputs": [image], "data_samples": [found]})
    boxes = got.pred_instances.bboxes
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= shape[1]).all()
    assert (boxes[:, 3] <= shape[0]).all()


@torch.no_grad()
def test_exports_without_suppression():
    """Any batch, height and width, in multiples of 32 as the detector pads to."""
    from statescan.mm.models.mamba_yolo import WithoutSuppression

    model = WithoutSuppression(official()).eval()
    batch = torch.export.Dim("batch", max=64)
    height, width = (32 * torch.export.Dim(d, min=2, max=32) for d in ("height", "width"))
    x = torch.rand(2, 3, 96, 64)
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    for size in ((2, 3, 96, 64), (1, 3, 64, 160)):
        x = torch.rand(size)
        boxes, scores = program(x)
        assert boxes.shape == (size[0], size[2] * size[3] // 64 * 21 // 16, 4)
        torch.testing.assert_close((boxes, scores), model(x), rtol=1e-4, atol=1e-4)
