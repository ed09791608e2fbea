"""Detectors and segmenters through train and evaluate, as tools/train.py and tools/test.py run."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_dense import DETECTOR, ROOT, SEGMENTER, write_config, write_scenes

from statescan.mm import InputError, evaluate, load_config, train
from statescan.mm.checkpoints.files import latest_checkpoint, read_training_checkpoint

pytestmark = [  # MMDetection's and MMSegmentation's advice about themselves
    pytest.mark.filterwarnings("ignore:faster_coco_eval is not installed:UserWarning:mmdet"),
    pytest.mark.filterwarnings("ignore:The draw is False:UserWarning:mmseg"),
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg"),
    pytest.mark.filterwarnings("ignore:`reduce_zero_label` will be deprecated:UserWarning:mmseg"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder)
    return folder


@pytest.fixture(scope="module")
def settings(scenes, tmp_path_factory):
    """Makes the config of a run in a folder of its own, or in ``work_dir``."""

    def settings(text, work_dir=None, **arguments):
        folder = tmp_path_factory.mktemp("run")
        path = write_config(folder / "dense.py", text, **arguments)
        return load_config(path, str(work_dir or folder / "work"), {"data_root": str(scenes)})

    return settings


@pytest.fixture(scope="module")
def detector(settings):
    """Config and runner of a detector trained for three epochs, with a data worker."""
    config = settings(DETECTOR, workers=1, length=3)
    return config, train(config)


@pytest.fixture(scope="module")
def segmenter(settings):
    """The same of a segmenter trained for eight iterations, saved after each third of them."""
    config = settings(SEGMENTER, workers=1, length=8, interval=3)
    return config, train(config)


def same_weights(ours, theirs):
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_a_detector_killed_goes_on_to_the_same_weights(settings, detector):
    config, undisturbed = detector
    again = settings(DETECTOR, workers=1, length=3)
    tool = [sys.executable, ROOT / "tools/train.py", again.filename, "--work-dir", again.work_dir]
    process = subprocess.Popen(
        [*map(str, tool), "--cfg-options", f"data_root={again.data_root}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while latest_checkpoint(again.work_dir) is None:
        assert process.poll() is None, "the training ended before its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert latest_checkpoint(again.work_dir).name != "epoch_3.pth"
    resumed = train(again, resume="auto")
    same_weights(resumed.model, undisturbed.model)
    assert latest_checkpoint(config.work_dir).name == "epoch_3.pth"


@pytest.mark.parametrize("iteration", [3, 6])
def test_a_segmenter_goes_on_in_the_middle_of_its_iterations(settings, segmenter, iteration):
    config, undisturbed = segmenter
    again = settings(SEGMENTER, workers=1, length=8, interval=3)
    resumed = train(again, resume=f"{config.work_dir}/iter_{iteration}.pth")
    same_weights(resumed.model, undisturbed.model)
    rows = [runner.message_hub.get_info("history") for runner in (undisturbed, resumed)]
    assert [row["iter"] for row in rows[0]] == [row["iter"] for row in rows[1]] == [4, 8]
    assert rows[0][-1]["mIoU"] == rows[1][-1]["mIoU"]


def test_what_the_console_shows(settings, capfd):
    train(settings(SEGMENTER, length=5))
    out, err = capfd.readouterr()
    model, start, *lines = [line for line in out.splitlines() if "OneDL" not in line]
    assert model.startswith("EncoderDecoder on test_vmamba, 0.07 M parameters, on cpu")
    assert start == "starting from scratch"
    assert [line.split("  ")[0] for line in lines] == ["iter 4/5", "iter 5/5"]
    assert all("  mIoU " in line for line in lines)
    assert err == ""


def test_boxes_are_written_as_coco_writes_them(settings, detector, tmp_path):
    config, _ = detector
    again = settings(DETECTOR, work_dir=tmp_path)
    checkpoint = latest_checkpoint(config.work_dir)
    metrics, *nothing = evaluate(again, checkpoint, tmp_path / "out/found")
    assert nothing == [None, None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["found.bbox.json"]
    found = json.loads((tmp_path / "out/found.bbox.json").read_text())
    assert {box["image_id"] for box in found} <= set(range(1, 11))
    assert {box["category_id"] for box in found} <= {10, 20}
    assert metrics["coco/bbox_mAP"] == pytest.approx(average_precision(again, found), abs=5e-4)


def average_precision(config, found):
    """COCO's mean AP by pycocotools alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(f"{config.data_root}/instances.json")
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_label_maps_are_written_as_images(settings, segmenter, scenes, tmp_path):
    config, _ = segmenter
    again = settings(SEGMENTER, work_dir=tmp_path)
    metrics = evaluate(again, latest_checkpoint(config.work_dir), tmp_path / "maps").metrics
    names = sorted(path.name for path in (scenes / "maps").iterdir())
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == names
    pairs = [[np.array(Image.open(f / "maps" / n)) for n in names] for f in (tmp_path, scenes)]
    predicted, truth = map(np.stack, pairs)
    both = [((predicted == c) & (truth == c)).sum() for c in range(3)]
    either = [((predicted == c) | (truth == c)).sum() for c in range(3)]
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(np.divide(both, either)), abs=0.006)


def test_checkpoints_of_others_are_refused(settings, detector, segmenter, tmp_path):
    (other, _), (config, _) = detector, segmenter
    again = settings(SEGMENTER)
    with pytest.raises(InputError, match=r"epoch_3\.pth is of another model: \d+ missing \("):
        evaluate(again, latest_checkpoint(other.work_dir))
    again = settings(SEGMENTER)
    again.model.backbone.dims = (4, 8, 12, 16)
    with pytest.raises(InputError, match=r"is of another model: \d+ of another shape \(backbone"):
        evaluate(again, latest_checkpoint(config.work_dir))


def test_a_misspelt_backbone_names_the_nearest(settings):
    config = settings(DETECTOR)
    config.model.backbone.name = "test_vmanba"
    with pytest.raises(InputError, match="no backbone 'test_vmanba': did you mean 'test_vmamba'"):
        train(config)


def test_the_best_score_is_kept_across_a_resume(settings):
    config = settings(SEGMENTER, length=4)
    config.default_hooks.checkpoint.save_best = "mIoU"
    best = train(config).message_hub.get_info("best_score")
    checkpoint = read_training_checkpoint(latest_checkpoint(config.work_dir))
    assert checkpoint["message_hub"]["runtime_info"].get("best_score", best) == best
    config.train_cfg.max_iters = 8
    assert train(config, resume="auto").message_hub.get_info("best_score") >= best
