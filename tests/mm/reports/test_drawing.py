"""What is drawn, where, and in which colour."""

import numpy as np
import pytest
import supervision as sv
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from statescan.mm.reports.drawing import Painter, SmallPainter

GREY = np.full((120, 160, 3), 128, np.uint8)
CLASSES, PALETTE = ("one", "two"), [(255, 0, 0), (0, 0, 255)]
RED, BLUE = (0, 0, 255), (255, 0, 0)  # BGR
BOXES = np.array([[20.0, 30, 60, 80], [90, 40, 150, 100]])


@pytest.fixture
def painter():
    return Painter(CLASSES, PALETTE)


def predicted(scores: list[float], masks: np.ndarray | None = None) -> BaseDataElement:
    """A data sample with two boxes, of class 0 and of class 1."""
    found = InstanceData(
        bboxes=torch.tensor(BOXES), scores=torch.tensor(scores), labels=torch.tensor([0, 1])
    )
    if masks is not None:
        found.masks = torch.from_numpy(masks)
    return BaseDataElement(pred_instances=found)


def test_boxes_in_their_classes_colours(painter):
    drawn = painter.prediction(GREY, predicted([0.9, 0.9]))
    assert tuple(drawn[60, 20]) == tuple(drawn[80, 40]) == RED
    assert tuple(drawn[70, 90]) == tuple(drawn[100, 120]) == BLUE
    assert (drawn[36:76, 26:56] == 128).all()
    assert (GREY == 128).all()  # the image itself is left alone


def test_weak_predictions_are_left_out(painter):
    drawn = painter.prediction(GREY, predicted([0.31, 0.29]))
    assert tuple(drawn[60, 20]) == RED
    assert (drawn[:, 85:] == 128).all()


def test_masks_colour_what_they_cover(painter):
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 40:60, 30:50] = True
    drawn = painter.prediction(GREY, predicted([0.9, 0.0], masks))
    blue, green, red = drawn[50, 40].astype(int)
    assert red > 150 > 100 > blue
    assert blue == green
    assert (drawn[64:76, 26:56] == 128).all()


def test_a_box_at_the_upper_edge_keeps_its_name(painter):
    boxes = np.array([[20.0, 0, 120, 60]])
    found = sv.Detections(boxes, class_id=np.array([0]))
    drawn = painter.instances(GREY, found)
    assert (drawn[:8, 24:30] == RED).all(axis=-1).mean() > 0.3  # its ground, inside of the image


def test_label_maps_leave_other_numbers_bare(painter):
    labels = np.full((120, 160), 255)
    labels[:60] = 1
    sample = BaseDataElement(pred_sem_seg=PixelData(data=torch.from_numpy(labels)[None]))
    drawn = painter.prediction(GREY, sample)
    blue, green, red = drawn[5, 5].astype(int)
    assert blue > 180 > 80 > red == green
    assert (drawn[70:] == 128).all()


def test_a_name_stands_in_its_largest_region(painter):
    labels = np.full((120, 160), 255)
    labels[20:60, 10:50] = 1
    labels[110:, 150:] = 1
    drawn = painter.label_map(GREY, labels)
    ground = (drawn == BLUE).all(axis=-1)  # opaque, unlike the region
    assert ground[30:50, 15:45].any()
    assert not ground[:, 60:].any()


def test_a_map_without_any_class_is_bare(painter):
    assert np.array_equal(painter.label_map(GREY, np.full((120, 160), 255)), GREY)


def test_nothing_found_is_nothing_drawn(painter):
    found = InstanceData(
        bboxes=torch.zeros(0, 4),
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.long),
        masks=torch.zeros(0, 120, 160, dtype=torch.bool),
    )
    drawn = painter.prediction(GREY, BaseDataElement(pred_instances=found))
    assert np.array_equal(drawn, GREY)


def test_a_palette_of_other_classes_is_not_used():
    assert Painter(CLASSES, [*PALETTE, (1, 2, 3)]).palette == sv.ColorPalette.DEFAULT
    assert Painter((), PALETTE).name(7) == "class 7"


@pytest.fixture
def small():
    return SmallPainter(CLASSES, PALETTE)


def test_small_pictures_have_boxes_without_names(small, painter):
    drawn = small.prediction(GREY, predicted([0.9, 0.9]))
    assert tuple(drawn[60, 20]) == RED
    assert tuple(drawn[70, 90]) == BLUE
    assert (drawn[:28] == 128).all()
    assert not (painter.prediction(GREY, predicted([0.9, 0.9]))[:28] == 128).all()


def test_small_pictures_have_masks_in_a_colour_each(small):
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 40:60, 30:50], masks[0, 45:50, 35:40] = True, False
    masks[1, 40:60, 90:100] = True
    found = predicted([0.9, 0.9], masks)
    found.pred_instances.labels[:] = 0
    drawn = small.prediction(GREY, found)
    assert np.array_equal((drawn != 128).any(-1), masks.any(0))
    assert tuple(drawn[41, 41]) != tuple(drawn[41, 95])


def test_truth_and_its_prediction_look_alike(small):
    masks = np.zeros((1, 120, 160), np.uint8)
    masks[0, 30:80, 20:60] = 1
    boxes, labels = torch.from_numpy(BOXES[:1]), torch.tensor([0])
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=labels, masks=BitmapMasks(masks, 120, 160)
    )
    sample.pred_instances = InstanceData(
        bboxes=boxes.repeat(2, 1),
        labels=labels.repeat(2),
        scores=torch.tensor([0.9, 0.2]),
        masks=torch.from_numpy(np.concatenate([masks, np.ones_like(masks)])).bool(),
    )
    drawn = small.truth(GREY, sample)
    assert (drawn != GREY).any()
    assert np.array_equal(drawn, small.prediction(GREY, sample))
    sample.gt_sem_seg = sample.pred_sem_seg = PixelData(data=torch.ones(1, 120, 160, dtype=int))
    assert np.array_equal(small.truth(GREY, sample), small.prediction(GREY, sample))
