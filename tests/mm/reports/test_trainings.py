"""Pictures of trainings."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from statescan.mm.reports.trainings import (
    COLORS,
    _draw_seeds,
    draw_classes,
    draw_instances,
    draw_prediction,
    draw_report,
    draw_truth,
)

GREY = np.full((20, 30, 3), 100, np.uint8)


def test_boxes_have_the_colours_of_their_classes():
    drawn = draw_instances(GREY, np.array([[2, 3, 10, 12], [15, 1, 28, 18.4]]), np.array([0, 7]))
    assert drawn[3, 2:11].tolist() == [COLORS[0].tolist()] * 9
    assert drawn[1:19, 15].tolist() == [COLORS[7 % len(COLORS)].tolist()] * 18
    assert np.array_equal(drawn[5, 5], GREY[5, 5])
    assert (GREY == 100).all()  # the image itself is as it was


def test_masks_have_a_colour_each_and_keep_their_holes():
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 2:12, 2:12], masks[0, 5:9, 5:9] = True, False
    masks[1, 2:12, 14:20] = True
    drawn = draw_instances(GREY, np.zeros((2, 4)), np.array([0, 0]), masks)
    changed = (drawn != GREY).any(-1)
    assert np.array_equal(changed, masks.any(0))
    assert drawn[3, 3].tolist() != drawn[3, 15].tolist()


@pytest.mark.parametrize("masks", [None, np.zeros((0, 20, 30))])
def test_nothing_found_is_the_image_itself(masks):
    drawn = draw_instances(GREY, np.zeros((0, 4)), np.zeros(0, int), masks)
    assert np.array_equal(drawn, GREY)


def test_ignored_pixels_stay_as_they_are():
    classes = np.full((20, 30), 255)
    classes[:, :10], classes[:, 10:20] = 0, 1
    drawn = draw_classes(GREY, classes, [(0, 0, 0), (200, 100, 0)])
    assert drawn[0, [0, 10, 20]].tolist() == [[35] * 3, [165, 100, 35], [100] * 3]


@pytest.fixture
def path(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_samples_of_a_detector(path):
    sample = DetDataSample(metainfo={"img_path": path})
    masks = np.zeros((1, 20, 30), np.uint8)
    masks[0, :5, :5] = 1
    boxes, labels = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0])
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=labels, masks=BitmapMasks(masks, 20, 30)
    )
    sample.pred_instances = InstanceData(
        bboxes=boxes.repeat(2, 1),
        labels=labels.repeat(2),
        scores=torch.tensor([0.9, 0.4]),
        masks=torch.from_numpy(np.concatenate([masks, np.ones_like(masks)])).bool(),
    )
    assert np.array_equal(draw_truth(sample), draw_prediction(sample))
    everything = draw_prediction(sample, threshold=0.3)
    assert (everything != GREY).any(-1).all()


def test_samples_of_a_segmenter(path):
    sample = SegDataSample(metainfo={"img_path": path})
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 20, 30, dtype=int))
    sample.pred_sem_seg = PixelData(data=torch.ones(1, 20, 30, dtype=int))
    palette = [(100, 100, 100), (0, 0, 0)]
    assert np.array_equal(draw_truth(sample, palette), GREY)
    assert (draw_prediction(sample, palette) == 35).all()


@pytest.mark.parametrize("shapes", [[(20, 30), (30, 20)], [(40, 40)]])
def test_draws_a_small_png(shapes):
    rng = np.random.default_rng(0)
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "mIoU": 30.0}]
    later = [{"epoch": 1, "loss": 3.0, "mIoU": 10.0}, {"epoch": 2, "loss": 2.0, "mIoU": 20.0}]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    rows = {"truth": images, "prediction": images}
    png = draw_report(
        "A title", "mIoU", {"a": [history], "b": [history, later]}, {"floor": 3.0}, rows
    )
    picture = Image.open(io.BytesIO(png))
    assert (picture.format, picture.mode) == ("PNG", "P")
    assert picture.width == 208 * len(shapes)


def test_seeds_are_thin_lines_around_their_mean():
    seeds = [
        [{"epoch": 1, "v": 1.0}, {"epoch": 2, "v": 2.0}],
        [{"epoch": 1}, {"epoch": 2, "v": 4.0}],
    ]
    axes = Figure().add_subplot()
    _draw_seeds(axes, "v", seeds, color="red")
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines == [([1, 2], [1, 2]), ([2], [4]), ([1, 2], [1, 3])]
