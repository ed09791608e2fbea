"""The benchmarks check before they print."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scans(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return load("selective_scan")


@pytest.fixture
def models():
    return load("models")


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return load("throughput")


@pytest.mark.parametrize("routes", ["cross", "raster"])
def test_peers_agree(scans, routes):
    row = scans.measure(scans.Shape(2, 5, 4, 6, routes, 3), repeat=1)
    assert set(row["error"]) == {"ours", "loop", "mambapy", "transformers"}
    assert max(row["error"].values()) < 1e-4
    assert all(ratio > 0 for pair in row["ratio"].values() for ratio in pair)


def test_a_wrong_scan_gets_no_time(scans, monkeypatch):
    right = scans.ours
    monkeypatch.setattr(scans, "ours", lambda inputs, routes: right(inputs, routes) * 1.001)
    with pytest.raises(SystemExit, match="ours is off by"):
        scans.measure(scans.Shape(1, 3, 3, 4, "cross", 1), repeat=1)


def test_long_scans_have_no_loops(scans):
    assert set(scans.peers(scans.SHAPES["VMamba-T stage 1, 1280x800"])) == {"mambapy"}


def test_a_wrong_model_gets_no_time(models, monkeypatch):
    model = models.build("test_vmamba", 32)
    x = torch.randn(1, 3, 32, 32)
    assert models.check("test_vmamba", model, x) < 1e-4

    class Wrong(torch.nn.Module):  # off where the C kernel runs
        def forward(self, images):
            return images.mean((2, 3)) * (1.01 if models._c.library() else 1)

    with pytest.raises(SystemExit, match="test_vmamba is off by"):
        models.check("test_vmamba", Wrong(), x)


def test_growth_is_the_slope_over_pixels(models):
    names = (models.OURS, *models.PEERS)
    rows = {s: {"inference": {n: 3.0 * s ** (2 * e) for e, n in enumerate(names)}} for s in (8, 16)}
    slopes = models.growth(rows, "inference")
    assert list(slopes.values()) == pytest.approx(range(len(names)), abs=1e-9)


def test_speed_is_relative_to_swins(throughput):
    row = throughput.measure("test_vmamba", 32, rounds=1)
    assert row["speed"] == row["swin_tiny"] / row["seconds"]
    assert row["error"] < 1e-4
    assert row["pixels"] == 32
    assert row["memory"] > 0


def test_rows_that_are_not_measured_again_stay(throughput, monkeypatch, tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"models": {"another": 1, "vmamba_nano": 2}}')
    monkeypatch.setattr(throughput, "measure_both", lambda name, rounds: {})
    monkeypatch.setattr(throughput.models, "peak_memory", lambda name, size: size)
    monkeypatch.setattr("sys.argv", ["throughput", "--only", "vmamba_nano", "--json", str(path)])
    threads = torch.get_num_threads()
    throughput.main()
    torch.set_num_threads(threads)
    models = throughput.json.loads(path.read_text())["models"]
    assert models["another"] == 1
    assert list(models["vmamba_nano"]) == ["date"]


@pytest.fixture
def tracking():
    return load("tracking")


def test_trackers_are_timed_on_targets_that_they_follow(tracking, monkeypatch):
    monkeypatch.setattr(tracking, "TARGETS", (2, 5, 30))
    monkeypatch.delitem(tracking.MOTIONS, "MTP, 512 channels")
    found = tracking.speeds(frames=6, rounds=1)
    assert set(found) == set(tracking.MOTIONS)
    assert all(set(row["frames a second"]) == {2, 5, 30} for row in found.values())


def test_a_tracker_that_loses_a_target_gets_no_time(tracking):
    boxes = tracking.circles(4, 30)
    boxes[15, 2] += 500
    with pytest.raises(SystemExit, match="Kalman lost a target"):
        tracking.run(tracking.Kalman(), boxes, rounds=1)


def test_the_trackers_memory(tracking):
    held = tracking.memory(200)
    assert held["ids"] == 400
    assert held["after 200 frames"] < held["after 20 frames"] + 20
