"""Images with binary masks: folders, transforms, metrics, and the published recipe in small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from PIL import Image

from statescan.mm import InputError, StateScanRunner
from statescan.mm.data.masks import (
    CheckMask,
    ForegroundMetric,
    MaskFolders,
    ResizeWithMask,
    StretchContrast,
)
from statescan.mm.training.predictions import keep_predictions

CONFIG = Path(__file__).parents[3] / "configs/segmentation/mhs_vm/mhs_vm_unet_4h_isic2018.py"


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pair(folder, name, size=(40, 56), mask=None, ending=""):
    """A noisy image with a bright disk, and the disk as mask."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows, columns = np.ogrid[: size[0], : size[1]]
    centre, radius = rng.uniform(0.3, 0.7, 2) * size, 0.25 * min(size)
    disk = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8) + np.uint8(150) * disk[..., None]
    write(folder / "images" / f"{name}.png", image)
    write(folder / "masks" / f"{name}{ending}.png", np.uint8(255) * disk if mask is None else mask)


@pytest.fixture
def data(tmp_path):
    """Four images to train on and two to test, one of them without foreground."""
    for name in "abcd":
        write_pair(tmp_path / "train", f"ISIC_{name}", ending="_segmentation")
    write_pair(tmp_path / "val", "ISIC_e")
    write_pair(tmp_path / "val", "ISIC_f", (30, 30), mask=np.zeros((30, 30), np.uint8))
    return tmp_path


def folders(root, split="train", **kwargs):
    prefix = {"img_path": f"{split}/images", "seg_map_path": f"{split}/masks"}
    return MaskFolders(data_root=str(root), data_prefix=prefix, **kwargs)


def recipe(data, work_dir, **options):
    """The published recipe around the smallest U-Net, at 32 pixels."""
    config = Config.fromfile(CONFIG)
    options |= {"model.backbone.name": "test_mhs_vm_unet", "model.data_preprocessor.size": (32, 32)}
    options |= {"work_dir": str(work_dir), "visualizer": None, "env_cfg.torch_threads": 1}
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        options |= {f"{loader}.num_workers": 0, f"{loader}.dataset.data_root": str(data)}
        pipeline = config[loader].dataset.pipeline
        next(t for t in pipeline if "scale" in t).scale = (32, 32)
    config.merge_from_dict(options)
    return config


def dataset_of(data):
    """The training images as they are read, without augmentation."""
    steps = ("LoadImageFromFile", "LoadAnnotations", "CheckMask", "PackSegInputs")
    with DefaultScope.overwrite_default_scope("mmseg"):
        return folders(data, pipeline=[{"type": step} for step in steps])


def test_images_find_their_masks_by_name(data):
    (data / "train/images/LICENSE.txt").write_text("not an image")
    items = folders(data).load_data_list()
    assert [Path(item["img_path"]).stem for item in items] == [f"ISIC_{name}" for name in "abcd"]
    for item in items:
        assert Path(item["seg_map_path"]).stem == Path(item["img_path"]).stem + "_segmentation"
    assert folders(data).metainfo["classes"] == ("background", "lesion")


def test_other_objects_have_other_names(data):
    meta = {"classes": ("background", "nucleus"), "palette": [[0, 0, 0], [0, 255, 0]]}
    dataset = folders(data, "val", metainfo=meta)
    assert (dataset.metainfo["classes"], dataset.metainfo["palette"]) == tuple(meta.values())


def test_folders_that_do_not_fit(data):
    with pytest.raises(InputError, match=r"there is no data folder '.*test/images'"):
        folders(data, "test")
    (data / "train/masks/ISIC_b_segmentation.png").unlink()
    with pytest.raises(
        InputError, match=r"1 files have no mask .*masks', '.*ISIC_b\.png' the first"
    ):
        folders(data)
    (data / "train/images/ISIC_b.png").unlink()
    (data / "train/images/ISIC_c.png").unlink()
    with pytest.raises(InputError, match=r"1 files have no image .*'.*ISIC_c_segmentation\.png'"):
        folders(data)
    write(data / "val/images/ISIC_e.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"images' has two files of the name 'ISIC_e'"):
        folders(data, "val")
    (data / "empty/images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty/images' has no images \(\.png"):
        folders(data, "empty")


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 0), (255, 255), (1, 1)], ids=str)
def test_masks_of_255_or_1_are_the_same(values, data):
    mask = np.full((40, 56), values[0], np.uint8)
    mask[:20] = values[1]
    write(data / "train/masks/ISIC_a_segmentation.png", mask)
    labels = dataset_of(data)[0]["data_samples"].gt_sem_seg.data
    assert torch.equal(labels[0], torch.from_numpy(mask > 0).long())


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.zeros((30, 56), np.uint8), r"has shape \(30, 56\), its image has \(40, 56\)"),
        (np.zeros((40, 56, 3), np.uint8), r"has shape \(40, 56, 3\), its image has"),
        (np.full((40, 56), 2, np.uint8), r"has the value 2, expected 0 .* and 1 or 255"),
        (np.full((40, 56), 128, np.uint8), r"has the value 128, expected"),
    ],
    ids=["size", "colours", "classes", "grey"],
)
def test_masks_that_are_none(mask, sentence, data):
    write(data / "train/masks/ISIC_a_segmentation.png", mask)
    with pytest.raises(InputError, match=rf"mask .*ISIC_a_segmentation\.png {sentence}"):
        dataset_of(data)[0]


def test_images_to_predict_have_no_mask():
    results = CheckMask()({"img": np.zeros((8, 9, 3)), "ori_shape": (8, 9)})
    results = ResizeWithMask(scale=(6, 4), keep_ratio=False)(results)
    assert "gt_seg_map" not in results
    assert (results["ori_shape"], results["img_shape"]) == ((8, 9), (4, 6))


@pytest.mark.parametrize(("mean", "deviation"), [(157.561, 26.706), (0.0, 1.0)])
def test_stretching_is_the_authors_normalisation(mean, deviation):
    image = np.random.default_rng(0).integers(20, 200, (5, 6, 3), dtype=np.uint8)
    scaled = (image - mean) / deviation
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min()) * 255
    got = StretchContrast()({"img": image})["img"]
    np.testing.assert_allclose(got, scaled, atol=1e-4)
    assert got.dtype == np.float32


def test_an_image_of_one_value_becomes_black():
    assert not StretchContrast()({"img": np.full((2, 2, 3), 77, np.uint8)})["img"].any()


def test_a_mask_is_scored_at_the_size_it_was_resized_to():
    results = {"img": np.zeros((8, 9, 3)), "gt_seg_map": np.eye(8, 9), "ori_shape": (8, 9)}
    results["seg_fields"] = ["gt_seg_map"]
    results = ResizeWithMask(scale=(6, 4), keep_ratio=False)(results)
    assert results["ori_shape"] == results["img_shape"] == results["gt_seg_map"].shape == (4, 6)


def figures(truths, predictions, classes=("background", "lesion")):
    metric = ForegroundMetric()
    metric.dataset_meta = {"classes": classes}
    for truth, prediction in zip(truths, predictions, strict=True):
        pair = {"gt_sem_seg": truth, "pred_sem_seg": prediction}
        metric.process({}, [{k: {"data": torch.tensor(v)[None]} for k, v in pair.items()}])
    return metric.evaluate(len(truths))


def test_metrics_equal_numpys():
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 2, size) for size in ((9, 7), (4, 4))] + [np.zeros((5, 5), int)]
    predictions = [(rng.random(t.shape) < 0.3).astype(float) for t in truths]
    truths[0][0] = 255
    t, p = (np.concatenate([m.ravel() for m in maps]) for maps in (truths, predictions))
    t, p = t[t != 255], p[t != 255]
    tp, fp, fn, tn = (np.sum((t == a) & (p == b)) for a, b in ((1, 1), (0, 1), (1, 0), (0, 0)))
    got = figures(truths, predictions)
    want = {
        "IoU": tp / (tp + fp + fn),
        "Dice": 2 * tp / (2 * tp + fp + fn),
        "accuracy": (tp + tn) / len(t),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
    }
    assert {k: got[k] for k in want} == pytest.approx({k: 100 * v for k, v in want.items()})
    assert got["mIoU"] == pytest.approx(50 * (want["IoU"] + tn / (tn + fp + fn)), abs=0.006)
    assert got["mDice"] == pytest.approx(
        50 * (want["Dice"] + 2 * tn / (2 * tn + fp + fn)), abs=0.006
    )


def test_metrics_count_more_pixels_than_float32_can():
    metric = ForegroundMetric()
    metric.dataset_meta = {"classes": ("background", "lesion")}
    right, one = torch.tensor([0.0, 2**24]), torch.tensor([0.0, 1.0])
    got = metric.compute_metrics([(right, right, right, right), (0 * one, one, 0 * one, one)])
    assert got["sensitivity"] < 100


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_metrics_without_any_foreground():
    got = figures([np.zeros((3, 3), int)], [np.zeros((3, 3))])
    assert got["accuracy"] == got["specificity"] == 100
    assert np.isnan([got["IoU"], got["Dice"], got["sensitivity"]]).all()


def test_metrics_are_of_two_classes():
    with pytest.raises(InputError, match=r"of two classes, the data set has \('a', 'b', 'c'\)"):
        figures([np.zeros((2, 2), int)], [np.zeros((2, 2))], ("a", "b", "c"))


def test_the_published_schedule():
    config = Config.fromfile(CONFIG)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
    other = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
    ours = PARAM_SCHEDULERS.build(dict(config.param_scheduler[0], optimizer=optimizer))
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(other, T_max=50, eta_min=1e-5)
    for _ in range(config.train_cfg.max_epochs):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])
        for scheduler, optim in ((ours, optimizer), (theirs, other)):
            optim.step()
            scheduler.step()
    wrapper = build_optim_wrapper(torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2)}),
                                  config.optim_wrapper)  # fmt: skip
    assert {g["weight_decay"] for g in wrapper.optimizer.param_groups} == {0.0, 0.01}
    assert config.train_dataloader.batch_size == 32


def test_the_recipe_trains_and_evaluates(data, tmp_path):
    options = {"train_cfg.max_epochs": 6, "train_cfg.val_begin": 6}
    options |= {"train_dataloader.batch_size": 1, "optim_wrapper.optimizer.lr": 0.01}
    runner = StateScanRunner.from_cfg(recipe(data, tmp_path / "work", **options))
    runner.train()
    history = runner.message_hub.get_info("history")
    assert history[-1]["loss"] < history[0]["loss"] - 0.05
    (best,) = (tmp_path / "work").glob("best_Dice_epoch_6.pth")
    again = recipe(data, tmp_path / "again", load_from=str(best))
    with keep_predictions(again, tmp_path / "maps"):
        metrics = StateScanRunner.from_cfg(again).test()
    maps = {p.name: np.array(Image.open(p)) for p in (tmp_path / "maps").iterdir()}
    assert {name: m.shape for name, m in maps.items()} == dict.fromkeys(
        ("ISIC_e.png", "ISIC_f.png"), (32, 32)
    )
    assert metrics == pytest.approx({k: history[-1][k] for k in metrics})
    assert metrics["accuracy"] > 50
