"""The detectors' benchmark checks before it times, and times every stage of each."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import statescan.mm  # noqa: F401  (hides what MMEngine warns of when it is imported)

TOOL = Path(__file__).parents[2] / "tools/benchmark_detector.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_detector", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_detector", module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # of YOLOX
def test_every_stage_of_every_detector(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "peak_memory", lambda *args: 1.0)
    path = tool.write_image(tmp_path)
    result = tool.measure(path, 96, "cpu", [torch.get_num_threads()], rounds=1)
    assert result["error"] < 1e-4
    assert result["parameters"]["mamba_yolo_tiny"] == 6_131_704
    ((_, seconds),) = result["seconds"].items()
    assert set(seconds) == {"mamba_yolo_tiny", "rtmdet_tiny", "yolox_tiny"}
    assert all(s > 0 for stages in seconds.values() for s in stages.values())
    rows = list(tool.rows("cpu", result))
    assert all(len(row) == len(tool.COLUMNS) for row in rows)
    assert rows[0][0] == "mamba_yolo_tiny"
    assert float(rows[0][6]) == 1


def test_the_docs_have_the_measured_rows(tool):
    results = json.loads((tool.ROOT / "benchmarks/results/detectors-cpu.json").read_text())
    page = (tool.ROOT / "docs/detectors.md").read_text()
    assert results["size"] == 640
    assert results["cpu"]["error"] < 1e-3
    for row in (tool.COLUMNS, *tool.rows("cpu", results["cpu"])):
        assert tool.line(row) in page


def test_the_threshold_lets_as_many_candidates_through(tool, tmp_path):
    detector = tool.build(tool.DETECTORS["rtmdet_tiny"], 96, "cpu")
    batch = tool.before(detector, tool.write_image(tmp_path))
    assert batch["inputs"].shape == (1, 3, 96, 96)
    with torch.inference_mode():
        maps = tool.network(detector, batch)
        tool.set_threshold(detector, maps)
        scores = torch.cat([m.flatten() for m in maps[0]]).sigmoid()
    above = int((scores > detector.model.bbox_head.test_cfg.score_thr).sum())
    assert above == tool.CANDIDATES - 1  # all but the one that is the threshold


def test_a_wrong_detector_gets_no_time(tool, monkeypatch):
    detector = tool.build(tool.DETECTORS[tool.OURS], 64, "cpu")
    x = torch.rand(1, 3, 64, 64)
    assert tool.check(detector, x) < 1e-4
    plain = type(detector.model.plain())
    right = plain.predict

    def wrong(self, x):  # off where the C kernel runs
        return right(self, x) * (1.01 if tool.models._c.library() else 1)

    monkeypatch.setattr(plain, "predict", wrong)
    with pytest.raises(SystemExit, match="mamba_yolo_tiny is off by"):
        tool.check(detector, x)
