"""tools/compare_trainings.py: short trainings of our configs on tiny data, with two seeds."""

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from statescan.mm import find_config, load_config
from statescan.mm.checkpoints.files import read_training_checkpoint

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
SHORT = {
    "model.backbone.name": "test_vmamba",
    "train_cfg": {"by_epoch": True, "max_epochs": 2, "val_interval": 1},
    "param_scheduler": None,
    "train_dataloader.dataset.pipeline.2.scale": (64, 48),
    "test_dataloader.dataset.pipeline.1.scale": (64, 48),
    "val_dataloader.dataset.pipeline.1.scale": (64, 48),
}


def write_short(folder: Path, config: str, options: dict) -> Path:
    """A config file ``short.py``: two epochs of a tiny model on the data in a folder."""
    options = SHORT | options | {"data_root": str(folder)}
    load_config(find_config(config, ROOT / "configs"), options=options).dump(folder / "short.py")
    return folder / "short.py"


def compare(*arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["compare_trainings.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "tools/compare_trainings.py"), run_name="__main__")


def read_table(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """Names of the columns, and cells of each row by its first."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return lines[0], {line[0]: line[1:] for line in lines[2:]}


@pytest.mark.parametrize(
    ("config", "write", "options", "metric", "expected"),
    [
        (
            "upernet_vmamba_nano_camvid",
            write_streets,
            STREETS,
            "mIoU",
            {"commonest class": 100 * 24 / 40 / 2},
        ),
        (
            "faster_rcnn_vmamba_nano_bccd",
            write_cells,
            CELLS,
            "coco/bbox_mAP",
            {"mean boxes": 1.0},
        ),
    ],
    ids=["segmenter", "detector"],
)
def test_one_training(tmp_path, capsys, config, write, options, metric, expected):
    write(tmp_path)
    short = write_short(tmp_path, config, options)
    out = ("--work-dir", tmp_path, "--out", tmp_path / "a.png", "--images", 2)
    compare(short, "--metric", metric, *out)
    picture = (tmp_path / "a.png").read_bytes()
    assert Image.open(io.BytesIO(picture)).width == 2 * 208

    checkpoint = tmp_path / "short_0/epoch_2.pth"
    trained = read_training_checkpoint(checkpoint)
    last = trained["message_hub"]["runtime_info"]["history"][-1]
    header, rows = read_table(capsys.readouterr().out)
    assert header == ["short", "untrained", *expected]
    figures = dict(zip(header, rows[metric], strict=True))
    assert float(figures["short"]) == pytest.approx(last[metric], rel=1e-3)
    for name, value in expected.items():
        assert float(figures[name]) == pytest.approx(value, rel=1e-3)
    assert rows["epoch"][0] == "2"

    written = checkpoint.stat().st_mtime_ns
    compare(short, "--metric", metric, *out)  # nothing is trained again
    assert checkpoint.stat().st_mtime_ns == written
    assert (tmp_path / "a.png").read_bytes() == picture


def test_seeds_have_a_mean_and_a_deviation(tmp_path, capsys):
    write_streets(tmp_path)
    short = write_short(tmp_path, "upernet_vmamba_nano_camvid", STREETS)
    compare(
        *(short, "--names", "ours", "--seeds", 3, 4, "--metric", "mIoU"),
        *("--work-dir", tmp_path, "--out", tmp_path / "a.png", "--images", 1),
    )
    figures = []
    for seed in (3, 4):
        trained = read_training_checkpoint(tmp_path / f"short_{seed}/epoch_2.pth")
        figures.append(trained["message_hub"]["runtime_info"]["history"][-1]["mIoU"])
    _, rows = read_table(capsys.readouterr().out)
    mean, deviation = map(float, rows["mIoU"][0].split(" ± "))
    assert mean == pytest.approx(np.mean(figures), rel=1e-3)
    assert deviation == pytest.approx(np.std(figures, ddof=1), rel=0.1)


def test_names_are_one_a_config(tmp_path):
    with pytest.raises(SystemExit, match="expected 1 different ones"):
        compare("a", "--names", "b", "c", "--metric", "mIoU", "--out", tmp_path / "a.png")
