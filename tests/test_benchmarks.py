"""The benchmarks check before they print."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks/selective_scan.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_selective_scan", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("routes", ["cross", "raster"])
def test_peers_agree(benchmark, routes):
    row = benchmark.measure(benchmark.Shape(2, 5, 4, 6, routes, 3), repeat=1)
    assert row["error"] < 1e-5
    assert all(ratio > 0 for ratio in row["ratio"])


def test_a_wrong_scan_gets_no_time(benchmark, monkeypatch):
    right = benchmark.ours
    monkeypatch.setattr(benchmark, "ours", lambda inputs, routes: right(inputs, routes) * 1.001)
    with pytest.raises(SystemExit, match="the scans disagree"):
        benchmark.measure(benchmark.Shape(1, 3, 3, 4, "cross", 1), repeat=1)
