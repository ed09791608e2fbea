"""Published recipes around the smallest VMamba, on folders of images of random pixels."""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from statescan.mm import load_config

BASES = Path(__file__).parents[2] / "configs/_base_"
SIZE = 64
CLASSES = ("box", "bar")
BACKBONE = {"type": "StateScanBackbone", "name": "test_vmamba"}
CHANNELS = [8, 16, 24, 32]
LOADER = {"batch_size": 2, "num_workers": 0, "persistent_workers": False}


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEG files 0.jpg, 1.jpg, ... in ``folder/images``."""
    (folder / "images").mkdir(parents=True)
    paths = [folder / f"images/{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def write_coco(folder: Path, boxes: list[list], categories=((3, "box"), (8, "bar"))) -> Path:
    """Images, and their annotation file with ``boxes`` of each: x, y, width, height, category."""
    paths = write_images(folder, len(boxes))
    content = {
        "images": [
            {"id": i, "file_name": path.name, "width": SIZE, "height": SIZE}
            for i, path in enumerate(paths)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [],
    }
    for i, (x, y, w, h, category) in ((i, b) for i, inside in enumerate(boxes) for b in inside):
        entry = {"id": len(content["annotations"]), "image_id": i, "category_id": category}
        entry |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        content["annotations"].append(entry)
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def write_maps(folder: Path, count: int) -> Path:
    """Images, and label maps of them with three classes and some pixels unknown."""
    (folder / "maps").mkdir(parents=True)
    for i, _ in enumerate(write_images(folder, count)):
        labels = np.random.default_rng(i).choice([0, 1, 2, 255], (SIZE, SIZE)).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"maps/{i}.png")
    return folder


def detector(folder: Path, work_dir: Path) -> Config:
    """Mask R-CNN's recipe for one epoch on the data of `write_coco`."""
    config = load_config(BASES / "detection/mask_rcnn_1x.py", str(work_dir))
    model = config.model
    model.backbone = dict(BACKBONE)
    model.neck.update(in_channels=CHANNELS, out_channels=8)
    model.rpn_head.update(in_channels=8, feat_channels=8)
    for kind, head in (("bbox", {"fc_out_channels": 16}), ("mask", {"conv_out_channels": 8})):
        model.roi_head[f"{kind}_roi_extractor"].out_channels = 8
        model.roi_head[f"{kind}_head"].update(in_channels=8, num_classes=2, **head)
    model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 20
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    data = {
        "type": "CocoDataset",
        "ann_file": str(folder / "instances.json"),
        "data_prefix": {"img": str(folder / "images")},
        "metainfo": {"classes": CLASSES},
    }
    resize = {"type": "Resize", "scale": (SIZE, SIZE)}
    reading = [{"type": "LoadImageFromFile"}, resize]
    annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}
    packing = {"type": "PackDetInputs"}
    train = [reading[0], annotations, resize, packing]
    tested = {"meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")}
    _use_data(
        config,
        train={**data, "pipeline": train},
        test={**data, "pipeline": [*reading, {**packing, **tested}], "test_mode": True},
    )
    config.val_evaluator.ann_file = config.test_evaluator.ann_file = data["ann_file"]
    config.param_scheduler = []
    config.train_cfg.max_epochs = 1
    return config


def segmenter(folder: Path, work_dir: Path) -> Config:
    """UPerNet's recipe for three iterations on the data of `write_maps`."""
    config = load_config(BASES / "segmentation/upernet_160k.py", str(work_dir))
    config.model.backbone = dict(BACKBONE)
    config.model.data_preprocessor.size = (SIZE, SIZE)
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.update(norm_cfg={"type": "BN"}, channels=8, num_classes=3)
    config.model.decode_head.in_channels, config.model.auxiliary_head.in_channels = CHANNELS, 24
    data = {
        "type": "BaseSegDataset",
        "data_prefix": {"img_path": str(folder / "images"), "seg_map_path": str(folder / "maps")},
        "metainfo": {"classes": ("ground", *CLASSES), "palette": [[0] * 3, [9] * 3, [255] * 3]},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {"type": "PackSegInputs"},
        ],
    }
    _use_data(config, train=data, test={**data, "test_mode": True})
    config.param_scheduler = []
    config.train_cfg.update(max_iters=3, val_interval=3)
    return config


def _use_data(config: Config, train: dict, test: dict) -> None:
    sampler = config.train_dataloader.sampler
    once = {"type": "DefaultSampler", "shuffle": False}
    config.train_dataloader = {**LOADER, "sampler": sampler, "dataset": train}
    config.val_dataloader = {**LOADER, "sampler": once, "dataset": test}
    config.test_dataloader = config.val_dataloader
    config.visualizer = config.vis_backends = None
    config.env_cfg.torch_threads = 1
    config.env_cfg.mp_cfg.opencv_num_threads = 0
