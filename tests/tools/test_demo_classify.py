"""tools/demo_classify.py on forty small cells."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from statescan.mm import InputError
from statescan.mm.data import classification

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """Runs the demo with arguments and returns its folder."""
    spec = importlib.util.spec_from_file_location("demo_classify", ROOT / "tools/demo_classify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)
    photographs = (
        rng.integers(0, 256, (80, 30, 30), dtype=np.uint8),
        np.repeat([0, 1 / 3, 2 / 3, 1], 20),
        np.tile(["mono", "poly"], 40),
    )
    monkeypatch.setattr(classification, "_photographs", lambda: photographs)
    classification.load_cells.cache_clear()
    work = tmp_path / "demo"

    def run(*args: str) -> Path:
        options = ["--cfg-options", "train_cfg.max_epochs=2", "train_cfg.val_interval=1"]
        tiny = ["model.backbone.name=test_vmamba", "env_cfg.torch_threads=1"]
        command = ["demo_classify.py", "--work-dir", str(work), *args, *options, *tiny]
        monkeypatch.setattr("sys.argv", command)
        module.main()
        return work

    yield run
    classification.load_cells.cache_clear()


def test_writes_checkpoint_numbers_and_picture(demo, capsys):
    work = demo()
    out, err = capsys.readouterr()
    results = json.loads((work / "metrics.json").read_text())
    assert results["test_images"] == 20
    assert [entry["epoch"] for entry in results["history"]] == [1, 2]
    assert results["metrics"] == {
        name: results["history"][-1][name] for name in ("roc_auc", "balanced_accuracy")
    }
    assert set(results["baselines"]) == {"majority class", "logistic regression"}
    with Image.open(work / "demo.png") as image:
        assert image.size == (1600, 1000)
    assert (work / "epoch_2.pth").exists()
    assert f"test_vmamba             {results['metrics']['roc_auc']:.3f}" in out
    assert err == ""


def test_a_finished_demo_shows_its_results_again(demo, capsys):
    work = demo()
    table = capsys.readouterr().out.splitlines()[-5:]
    demo()
    again = capsys.readouterr().out.splitlines()
    assert again[0] == f"already finished; delete {work} to start again"
    assert again[1:] == table


def test_lost_results_come_back_from_the_checkpoint(demo):
    work = demo()
    before = (work / "metrics.json").read_bytes()
    (work / "metrics.json").unlink()
    demo()
    assert (work / "metrics.json").read_bytes() == before


def test_another_seed_needs_another_folder(demo):
    demo()
    with pytest.raises(InputError, match=r"metrics\.json is of seed 0, not 1: delete"):
        demo("--seed", "1")
