"""Tiny images with boxes, masks and label maps, and configs of tiny models on them."""

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from statescan.mm import load_config
from statescan.mm.inference.predictor import in_scope

CLASSES = ("red", "blue")
COLORS = np.array([[40, 40, 40], [220, 30, 30], [30, 30, 220]], np.uint8)  # background first
SIZE = (48, 64)  # height, width

DETECTION = """
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"
default_scope = "mmdet"
custom_imports = dict(imports=["statescan.mm"])
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(_delete_=True, type="StateScanBackbone", name="test_vmamba"),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8, num_classes=2),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_classes=2),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=5)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(96, 72), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 72), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs"),
]
dataset = dict(
    type="CocoDataset",
    data_root=ROOT,
    metainfo=dict(classes=("red", "blue")),
    ann_file="instances.json",
    data_prefix=dict(img="images"),
)
train_dataloader = dict(dataset=dict(type="RepeatDataset", times=2, dataset=dict(
    **dataset, pipeline=train_pipeline)))
test_dataloader = dict(dataset=dict(**dataset, test_mode=True, pipeline=test_pipeline))
"""

SEGMENTATION = """
default_scope = "mmseg"
custom_imports = dict(imports=["statescan.mm"])
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[128] * 3, std=[64] * 3, size=(48, 64)),
    backbone=dict(type="StateScanBackbone", name="test_vmamba"),
    decode_head=dict(
        type="FCNHead", in_channels=32, channels=8, num_convs=1, num_classes=3, in_index=3,
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
    ),
    test_cfg=dict(mode="whole"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
dataset = dict(
    type="BaseSegDataset",
    data_root=ROOT,
    metainfo=dict(classes=("ground", "red", "blue")),
    img_suffix=".png",
    data_prefix=dict(img_path="images", seg_map_path="labels"),
)
train_dataloader = dict(dataset=dict(**dataset, pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(**dataset, pipeline=test_pipeline))
"""


def write_images(root: Path, boxes: list[list[tuple]]) -> Path:
    """Images of rectangles ``(x, y, w, h, class)``, COCO annotations with masks, and label maps.

    Returns:
        The folder ``root``, with ``images/0.png``..., ``labels/0.png``... and ``instances.json``.
    """
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 * i + 10, "name": n} for i, n in enumerate(CLASSES)],
    }
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for image, rectangles in enumerate(boxes):
        labels = np.zeros(SIZE, np.uint8)
        for x, y, w, h, label in rectangles:
            labels[y : y + h, x : x + w] = label + 1
            number = len(coco["annotations"]) + 1
            coco["annotations"].append(annotation(number, image, x, y, w, h, label))
        name = {"id": image, "file_name": f"{image}.png", "height": SIZE[0], "width": SIZE[1]}
        coco["images"].append(name)
        Image.fromarray(COLORS[labels]).save(root / f"images/{image}.png")
        Image.fromarray(labels).save(root / f"labels/{image}.png")
    (root / "instances.json").write_text(json.dumps(coco))
    return root


def annotation(number: int, image: int, x: int, y: int, w: int, h: int, label: int) -> dict:
    """A rectangle in COCO's form; category ids are 10 and 20."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 10 * label + 10,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def write_config(root: Path, task: str) -> Path:
    """A config for the data in ``root``: of ``"detection"`` or ``"segmentation"``."""
    text = {"detection": DETECTION, "segmentation": SEGMENTATION}[task]
    path = root / f"{task}.py"
    path.write_text(text.replace("ROOT", repr(str(root))))
    return path


def write_checkpoint(config_path: Path) -> Path:
    """Random weights of a config's model, the same every time, beside the config."""
    return save_weights(load_config(config_path), config_path.with_suffix(".pth"))


def save_weights(config: Config, path: Path) -> Path:
    """Random weights of a config's model, the same every time."""
    torch.manual_seed(0)
    with in_scope(config):
        model = MODELS.build(config.model)
    torch.save({"state_dict": model.state_dict()}, path)
    return path
