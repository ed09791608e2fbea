"""tools/compare_trackers.py on short videos and an untrained predictor."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from statescan.tracking import mot_files
from statescan.tracking.scenes import moving_boxes

TOOL = Path(__file__).resolve().parents[2] / "tools/compare_trackers.py"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool with everything short, on a "PETS" of composed boxes; returns a way to run it."""
    frames = moving_boxes(0, 45, 4, (768, 576))
    for name in ("gt.txt", "det.txt"):
        mot_files.write(tmp_path / "pets" / name, frames.items())
    (tmp_path / "page.md").write_text(
        "before\n<!-- compare_trackers.py writes below -->\nold\n<!-- and above -->\nafter\n"
    )
    tool = runpy.run_path(str(TOOL))
    short = dict(TEST=range(21, 46), LENGTH=25, TARGETS=3, SCENES=range(2))
    short |= dict(TRAIN=range(90, 91), VAL=range(91, 92))
    tool["main"].__globals__.update(short)

    def run(*more):
        options = ("model.predictor.dim=8", "model.predictor.depth=1", "train_cfg.max_epochs=1")
        options += ("train_cfg.val_interval=1", "val_dataloader.dataset.frames=[21,45]")
        command = [
            *("compare_trackers.py", "--pets", tmp_path / "pets", "--work-dir", tmp_path / "work"),
            *("--page", tmp_path / "page.md", *more, "--cfg-options", *options),
        ]
        monkeypatch.setattr("sys.argv", list(map(str, command)))
        tool["main"]()
        return json.loads((tmp_path / "work/results.json").read_text())

    return run


def test_the_table_and_the_page(tool, tmp_path):
    results = tool("--only", "stationary", "sort", "mtp_alone", "mtp")
    assert len(results) == 3
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    for title, rows in results.items():
        assert f"### {title}" in page
        assert list(rows) == ["stationary", "sort", "mtp_alone", "mtp"]
        for found in rows.values():
            assert 0 < found["HOTA"] <= 1
            assert found["HOTA"] == pytest.approx(np.sqrt(found["DetA"] * found["AssA"]), abs=0.1)
    before = (tmp_path / "work/mtp_pets/epoch_1.pth").stat().st_mtime_ns
    assert tool("--only", "sort", "mtp") != results  # two rows
    assert (tmp_path / "work/mtp_pets/epoch_1.pth").stat().st_mtime_ns == before  # not again


def test_bytetrack_and_ocsort(tool):
    for rows in tool("--only", "bytetrack", "ocsort", "kalman").values():
        assert all(found["DetA"] > 0.3 for found in rows.values())


def test_a_page_without_marks_is_left_alone(tool, tmp_path):
    (tmp_path / "page.md").write_text("mine")
    with pytest.raises(ValueError, match=r"page\.md has no lines"):
        tool("--only", "stationary")
    assert (tmp_path / "page.md").read_text() == "mine"
    assert not (tmp_path / "work").exists()  # said before anything is computed
