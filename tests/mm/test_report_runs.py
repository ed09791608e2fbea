"""Short trainings of our configs on tiny data, and tools/report_runs.py on what they leave."""

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from statescan.mm import load_config, train

ROOT = Path(__file__).parents[2]
CHANNELS = [8, 16, 24, 32]  # of test_vmamba
pytestmark = [  # MMDetection's and MMSegmentation's advice about themselves
    pytest.mark.filterwarnings("ignore:faster_coco_eval is not installed:UserWarning:mmdet"),
    pytest.mark.filterwarnings("ignore:The draw is False:UserWarning:mmseg"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def noise(rng) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))


def write_streets(folder: Path) -> None:
    """Four images a split, each with two classes and void."""
    rng, labels = np.random.default_rng(0), np.full((48, 64), 3, np.uint8)
    labels[:16], labels[40:] = 0, 11
    for split in ("train", "val"):
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir()
        for number in range(4):
            noise(rng).save(folder / split / f"{number}.jpg")
            Image.fromarray(labels).save(folder / f"{split}annot" / f"{number}.png")


def write_cells(folder: Path) -> None:
    """Four images a split, each with one cell at the same place."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for split in ("train", "val"):
        names = [f"{split}{number}.jpg" for number in range(4)]
        for name in names:
            noise(rng).save(folder / "images" / name)
        images = [
            {"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
        ]
        box = {"bbox": [8, 8, 24, 24], "area": 576, "iscrowd": 0, "category_id": 1}
        document = {
            "images": images,
            "annotations": [{"id": i + 1, "image_id": i, **box} for i in range(4)],
            "categories": [
                {"id": i + 1, "name": n} for i, n in enumerate(("RBC", "WBC", "Platelets"))
            ],
        }
        (folder / f"instances_{split}.json").write_text(json.dumps(document))


STREETS = {
    "model.decode_head.in_channels": CHANNELS,
    "model.auxiliary_head.in_channels": 24,
    "model.data_preprocessor.size": (48, 64),
    "train_dataloader.dataset.pipeline.3.crop_size": (48, 64),
}
CELLS = {"model.neck.in_channels": CHANNELS}


@pytest.mark.parametrize(
    ("config", "write", "options", "metric", "expected"),
    [
        (
            "segmentation/from_scratch/upernet_vmamba_nano_camvid.py",
            write_streets,
            STREETS,
            "mIoU",
            {"commonest class": 100 * 24 / 40 / 2},
        ),
        (
            "detection/from_scratch/faster_rcnn_vmamba_nano_bccd.py",
            write_cells,
            CELLS,
            "coco/bbox_mAP",
            {"mean boxes": 1.0},
        ),
    ],
    ids=["segmenter", "detector"],
)
def test_training_and_its_report(
    tmp_path, monkeypatch, capsys, config, write, options, metric, expected
):
    write(tmp_path)
    options = options | {
        "data_root": str(tmp_path),
        "model.backbone.name": "test_vmamba",
        "train_cfg": {"by_epoch": True, "max_epochs": 2, "val_interval": 1},
        "param_scheduler": None,
        "train_dataloader.dataset.pipeline.2.scale": (64, 48),
        "test_dataloader.dataset.pipeline.1.scale": (64, 48),
        "val_dataloader.dataset.pipeline.1.scale": (64, 48),
    }
    work = tmp_path / "work"
    runner = train(load_config(ROOT / "configs" / config, str(work), options))
    history = runner.message_hub.get_info("history")
    capsys.readouterr()

    argv = [work, work, "--metric", metric, "--out", tmp_path / "a.png", "--images", 2]
    monkeypatch.setattr("sys.argv", ["report_runs.py", *map(str, argv)])
    runpy.run_path(str(ROOT / "tools/report_runs.py"), run_name="__main__")
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).width == 2 * 208
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    lines = [line for line in lines if len(line) > 1]
    header, rows = lines[0], {line[0]: line[1:] for line in lines[2:]}
    assert header == ["test_vmamba", "untrained", *expected]
    figures = dict(zip(header, rows[metric], strict=True))
    assert float(figures["test_vmamba"]) == pytest.approx(history[-1][metric])
    for name, value in expected.items():
        assert float(figures[name]) == pytest.approx(value)
    parameters = sum(p.numel() for p in runner.model.parameters())
    assert rows["parameters"] == [str(parameters), "–", "–"]
    assert rows["epoch"][0] == "2"
