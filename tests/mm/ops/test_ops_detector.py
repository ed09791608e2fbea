"""Mask R-CNN of MMDetection's own config on the stand-ins: a training step and a prediction."""

from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

SIZE = (64, 64)


@pytest.fixture
def detector():
    path = Path(mmdet.__file__).parent / ".mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    config = Config.fromfile(path).model
    config.backbone.update(depth=18, base_channels=8, init_cfg=None)
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    config.rpn_head.update(in_channels=8, feat_channels=8)
    for extractor in (config.roi_head.bbox_roi_extractor, config.roi_head.mask_roi_extractor):
        extractor.out_channels = 8
    config.roi_head.bbox_head.update(in_channels=8, fc_out_channels=8, num_classes=2)
    config.roi_head.mask_head.update(in_channels=8, conv_out_channels=8, num_classes=2)
    config.test_cfg.rcnn.score_thr = 0.0
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield MODELS.build(config)


def sample() -> DetDataSample:
    shapes = dict.fromkeys(["img_shape", "ori_shape", "pad_shape", "batch_input_shape"], SIZE)
    masks = np.zeros((1, *SIZE), np.uint8)
    masks[0, 10:40, 8:50] = 1
    instances = InstanceData(
        bboxes=torch.tensor([[8.0, 10, 50, 40]]),
        labels=torch.tensor([1]),
        masks=BitmapMasks(masks, *SIZE),
    )
    found = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
    found.gt_instances = instances
    return found


def test_mask_rcnn_trains_a_step_and_predicts(detector):
    image = torch.randn(1, 3, *SIZE)
    optimizer = torch.optim.SGD(detector.parameters(), 0.001)
    losses = detector.parse_losses(detector(image, [sample()], mode="loss"))
    losses[0].backward()
    optimizer.step()
    assert {"loss_rpn_bbox", "loss_bbox", "loss_mask"} <= set(losses[1])
    assert all(p.isfinite().all() for p in detector.parameters())
    with torch.no_grad():
        (predicted,) = detector.eval()(image, [sample()], mode="predict")
    instances = predicted.pred_instances
    assert len(instances.bboxes) > 0
    assert instances.masks.shape == (len(instances.bboxes), *SIZE)
