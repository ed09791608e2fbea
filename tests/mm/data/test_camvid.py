import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from statescan.mm.data.camvid import CamVid, ClasswiseIoU


def write_split(folder, labels):
    for kind, suffix in (("train", "jpg"), ("trainannot", "png")):
        (folder / kind).mkdir()
        for number, pixels in enumerate(labels):
            image = pixels if suffix == "png" else np.stack([pixels * 20] * 3, -1)
            Image.fromarray(image.astype(np.uint8)).save(folder / kind / f"{number}.{suffix}")


def test_void_is_ignored_and_the_classes_stay(tmp_path):
    labels = np.arange(12).reshape(3, 4)
    write_split(tmp_path, [labels, labels[::-1]])
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    prefix = {"img_path": "train", "seg_map_path": "trainannot"}
    with DefaultScope.overwrite_default_scope("mmseg"):
        data = CamVid(data_root=str(tmp_path), data_prefix=prefix, pipeline=steps)
    assert len(data) == 2
    assert len(data.metainfo["classes"]) == len(data.metainfo["palette"]) == 11
    expected = np.where(labels == 11, 255, labels)
    assert np.array_equal(data[0]["data_samples"].gt_sem_seg.data[0], expected)
    assert np.array_equal(data[1]["data_samples"].gt_sem_seg.data[0], expected[::-1])
    assert data[0]["inputs"].shape == (3, 3, 4)


def test_iou_of_each_class():
    metric = ClasswiseIoU()
    metric.dataset_meta = {"classes": ("sky", "tree", "car")}
    truth = [torch.tensor([[0, 0, 1, 255]]), torch.tensor([[1, 1, 0, 255]])]
    answers = [torch.tensor([[0, 1, 1, 0]]), torch.tensor([[1, 1, 0, 2]])]
    for right, said in zip(truth, answers, strict=True):
        sample = {"gt_sem_seg": {"data": right}, "pred_sem_seg": {"data": said}}
        metric.process({}, [sample])
    found = metric.evaluate(size=2)
    # sky: 2 of 3 pixels, tree: 3 of 4, a car is neither there nor said where it counts
    assert found["IoU/sky"] == pytest.approx(66.67)
    assert found["IoU/tree"] == 75.0
    assert np.isnan(found["IoU/car"])
    assert found["mIoU"] == pytest.approx((66.67 + 75) / 2, abs=0.01)
    assert all(type(value) is float for value in found.values())
