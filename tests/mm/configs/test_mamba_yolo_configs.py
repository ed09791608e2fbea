"""Mamba-YOLO's recipes: published sizes, pipelines, and a training with all of their hooks."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from golden import load_variants
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

from statescan.mm.checkpoints.files import check_fits, read_training_checkpoint
from statescan.mm.models.backbone import rename_backbones
from statescan.mm.training.launch import build_runner

FOLDER = Path(__file__).parents[3] / "configs/detection"
OURS = FOLDER / "from_scratch/mamba_yolo_tiny_bccd.py"
PEER = FOLDER / "from_scratch/rtmdet_tiny_bccd.py"
SHAPES = [(48, 64), (300, 4000), (64, 30), (20, 20), (90, 90), (48, 64)]


def build(config):
    with DefaultScope.overwrite_default_scope(config.default_scope), torch.device("meta"):
        return MODELS.build(config.model)


SIZES = ("tiny", "medium", "large")


@pytest.mark.parametrize(
    ("size", "variant"), [*zip(SIZES, load_variants("mamba_yolo"), strict=True)], ids=SIZES
)
def test_published_weights_parameters_and_what_decays(size, variant):
    config = Config.fromfile(FOLDER / f"mamba_yolo/mamba_yolo_{size}_coco.py")
    model = build(config)
    assert sum(p.numel() for p in model.parameters()) == variant["params"]
    weights = {k: torch.empty(s, device="meta") for k, s in variant["state_dict"].items()}
    check_fits("published", rename_backbones(weights, model), model)
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(decay) == len(trained)
    times = ("A_log", "D", "dt_proj_bias")
    for name, p in trained.items():
        still = p.ndim == 1 or name.endswith(times)
        assert decay[id(p)] == (0 if still else 0.004), name


def test_both_detectors_have_the_same_budget():
    ours, peer = (Config.fromfile(path).to_dict() for path in (OURS, PEER))
    for name in ("model", "custom_imports", "norm", "act"):
        ours.pop(name, None), peer.pop(name, None)
    assert ours == peer
    assert build(Config.fromfile(PEER)).bbox_head.num_classes == 3


@pytest.fixture
def images(tmp_path):
    """A COCO folder of grey images with coloured rectangles; the last image has none."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    found = {"images": [], "annotations": []}
    found["categories"] = [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)]
    for i, (height, width) in enumerate(SHAPES):
        image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        for label in range(3) if i + 1 < len(SHAPES) else ():
            w, h = width // 4, height // 2
            x, y = label * width // 3, int(rng.integers(0, height - h))
            image[y : y + h, x : x + w] = np.eye(3)[label] * 255
            found["annotations"].append(
                {
                    "id": len(found["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image)
        meta = {"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height}
        found["images"].append(meta)
    (tmp_path / "instances.json").write_text(json.dumps(found))
    return tmp_path


NAMES = ("RBC", "WBC", "Platelets")


def on(config, images):
    """The config on these images, for the smallest backbone."""
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.batch_size = 3
        loader.dataset.update(data_root=str(images), ann_file="instances.json")
    config.val_evaluator.ann_file = str(images / "instances.json")
    config.model.backbone.name = "test_mamba_yolo"
    for part in (config.model.neck, config.model.bbox_head):
        part.in_channels = [16, 24, 32]
    config.visualizer, config.test_dataloader = None, config.val_dataloader
    config.test_evaluator = config.val_evaluator
    return config


@pytest.mark.parametrize("pipeline", ["train_pipeline", "last_pipeline"])
def test_pipelines(images, pipeline):
    """Squares of 256 pixels from every image, its objects where they are to be seen."""
    config = on(Config.fromfile(OURS), images)
    config.train_dataloader.dataset.pipeline = config[pipeline]
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config.train_dataloader.dataset)
    assert len(dataset) == len(SHAPES)
    seen = 0
    for i in range(3 * len(SHAPES)):
        item = dataset[i % len(SHAPES)]
        assert item["inputs"].shape == (3, 256, 256)
        sample = item["data_samples"].gt_instances
        for box, label in zip(sample.bboxes.tensor, sample.labels, strict=True):
            assert (box >= 0).all()
            assert (box <= 256).all()
            x, y, x2, y2 = (*(box[:2].int() + 2).tolist(), *(box[2:].int() - 2).relu().tolist())
            patch = item["inputs"][:, y:y2, x:x2].float()
            if patch.numel() > 100:  # the colour of its class, in the order of BGR
                seen += 1
                assert patch.mean((1, 2)).argmax() == label
    assert seen > 20


def test_letterbox_of_the_test_pipeline(images):
    """The image in the upper left corner, grey 114 beside it."""
    config = on(Config.fromfile(OURS), images)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config.val_dataloader.dataset)
    item = dataset[1]  # 300 x 4000
    assert item["inputs"].shape == (3, 256, 256)
    assert (item["inputs"][:, 19:] == 114).all()
    assert (item["inputs"][:, :19] != 114).any()
    assert item["data_samples"].scale_factor == pytest.approx((0.064, 19 / 300))


@pytest.mark.filterwarnings("ignore:faster_coco_eval is not installed:UserWarning")
def test_training_with_all_hooks(images, tmp_path):
    """Two epochs, the second without mosaics, evaluated with the averaged weights."""
    config = on(Config.fromfile(OURS), images)
    config.work_dir = str(tmp_path / "work")
    config.train_cfg = {"by_epoch": True, "max_epochs": 2, "val_interval": 2}
    config.custom_hooks[1].switch_epoch = 1
    runner = build_runner(config)
    runner.train()
    history = runner.message_hub.get_info("history")
    assert len(history) == 2
    assert "coco/bbox_mAP" in history[1]
    assert all(np.isfinite(epoch["loss"]) for epoch in history)
    saved = read_training_checkpoint(tmp_path / "work/epoch_2.pth")
    averaged, kept = saved["state_dict"], saved["ema_state_dict"]
    name = "bbox_head.head.box.0.0.conv.weight"
    assert not torch.equal(averaged[name], kept[f"module.{name}"])
    dataset = runner.train_dataloader.dataset
    assert "CachedMosaic" not in {type(t).__name__ for t in dataset.pipeline.transforms}
