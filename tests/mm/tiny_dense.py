"""Tiny data and configs for detectors and segmenters: bright boxes on dark noise."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64

DETECTOR = """
_base_ = "{configs}/_base_/detection/retinanet_1x.py"
data_root = "data/coco/"
model = dict(
    data_preprocessor=dict(mean=[128.0] * 3, std=[64.0] * 3),
    backbone=dict(
        name="test_vmamba", pretrained=False, drop_path_rate=0.2, out_indices=(1, 2, 3)
    ),
    neck=dict(in_channels=[16, 24, 32], out_channels=16, num_outs=4, start_level=0),
    bbox_head=dict(
        num_classes=2,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(strides=[8, 16, 32, 64]),
    ),
    test_cfg=dict(score_thr=0.0, max_per_img=20),
)
classes = dict(classes=("box", "bar"))
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers={workers},
    persistent_workers={workers} > 0,
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        times=2,
        dataset=dict(
            type="CocoDataset",
            data_root=data_root,
            ann_file="instances.json",
            data_prefix=dict(img="images/"),
            metainfo=classes,
            pipeline=pipeline,
        ),
    ),
)
test = dict(
    ann_file="instances.json",
    data_prefix=dict(img="images/"),
    metainfo=classes,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(64, 64), keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=("img_id", "ori_shape", "img_shape", "scale_factor")),
    ],
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=test)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "instances.json", format_only=False)
test_evaluator = val_evaluator
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20)]
train_cfg = dict(max_epochs={epochs}, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=0.5))
env_cfg = dict(torch_threads=1, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
randomness = dict(seed=0)
"""

SEGMENTER = """
_base_ = "{configs}/_base_/segmentation/upernet_160k.py"
data_root = "data/ade/ADEChallengeData2016"
norm = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(name="test_vmamba", pretrained=False, drop_path_rate=0.2),
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=16, num_classes=3, norm_cfg=norm),
    auxiliary_head=dict(in_channels=24, channels=8, num_classes=3, norm_cfg=norm),
)
dataset = dict(
    type="BaseSegDataset",
    data_root=data_root,
    data_prefix=dict(img_path="images", seg_map_path="maps"),
    img_suffix=".png",
    metainfo=dict(classes=("dark", "box", "bar"), palette=[[0] * 3, [255] * 3, [128] * 3]),
)
train_dataloader = dict(
    batch_size=4,
    num_workers={workers},
    persistent_workers={workers} > 0,
    dataset=dict(
        _delete_=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomCrop", crop_size=(48, 48)),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
        **dataset,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
        **dataset,
    ),
)
test_dataloader = val_dataloader
param_scheduler = [dict(type="PolyLR", power=1.0, by_epoch=False, begin=0, end={iterations})]
train_cfg = dict(max_iters={iterations}, val_interval=4)
default_hooks = dict(checkpoint=dict(interval={interval}))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
env_cfg = dict(torch_threads=1, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
randomness = dict(seed=0)
"""


def write_scenes(folder: Path, count: int = 10) -> None:
    """Images with one or two rectangles, COCO annotations and label maps."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "maps").mkdir()
    images, annotations = [], []
    for number in range(1, count + 1):
        picture = rng.integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
        labels = np.zeros((SIZE, SIZE), np.uint8)
        for category in rng.choice([1, 2], rng.integers(1, 3), replace=False).tolist():
            width, height = (24, 24) if category == 1 else (40, 10)
            x, y = (int(rng.integers(0, SIZE - side)) for side in (width, height))
            picture[y : y + height, x : x + width] = (255, 200, 60) if category == 1 else 180
            labels[y : y + height, x : x + width] = category
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            box |= {"id": len(annotations) + 1, "image_id": number, "category_id": 10 * category}
            annotations.append(box | {"segmentation": [corners]})
        name = f"scene_{number}.png"
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        Image.fromarray(picture).save(folder / "images" / name)
        Image.fromarray(labels).save(folder / "maps" / name)
    categories = [{"id": 10, "name": "box"}, {"id": 20, "name": "bar"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))


def write_config(path: Path, text: str, workers: int = 0, length: int = 4, interval: int = 4):
    """A config file of ``length`` epochs of a detector or iterations of a segmenter."""
    values = {"workers": workers, "epochs": length, "iterations": length, "interval": interval}
    path.write_text(text.format(configs=ROOT / "configs", **values))
    return path
