"""tools/demo_scenes.py on a dozen small scenes, a second or two of training."""

import json
from pathlib import Path

import pytest
from PIL import Image
from sprite_folder import load_tool, write_sprites

from statescan.mm import InputError

pytestmark = [  # MMDetection's and MMSegmentation's advice about themselves
    pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg"),
    pytest.mark.filterwarnings("ignore:faster_coco_eval is not installed:UserWarning:mmdet"),
]
TINY = ["env_cfg.torch_threads=1", "model.backbone.name=test_vmamba", "train_cfg.max_epochs=2"]
OPTIONS = {
    "detect": [*TINY, "model.neck.in_channels=[8,16,24,32]"],
    "segment": [
        *TINY,
        "model.decode_head.in_channels=[8,16,24,32]",
        "model.auxiliary_head.in_channels=24",
    ],
}
CONSTANT = {"detect": "mean box of each category", "segment": "commonest class"}
METRIC = {"detect": "coco/bbox_mAP", "segment": "mIoU"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cut-outs, and scenes that both demos use."""
    folder = tmp_path_factory.mktemp("demo")
    write_sprites(folder / "sprites")
    return folder


@pytest.fixture
def demo(monkeypatch, folder):
    """Runs a demo and returns its folder."""
    tool = load_tool("demo_scenes")

    def run(task: str, *args: str) -> Path:
        work = folder / task
        places = [
            "--work-dir",
            work,
            "--scenes",
            folder / "scenes",
            "--sprites",
            folder / "sprites",
        ]
        command = ["demo_scenes.py", task, *map(str, places), "--train", "8", "--val", "4", *args]
        monkeypatch.setattr("sys.argv", [*command, "--cfg-options", *OPTIONS[task]])
        tool.main()
        return work

    return run


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_writes_numbers_and_a_picture_and_goes_on_after_a_kill(demo, capsys, task):
    work = demo(task)
    out = capsys.readouterr().out.splitlines()
    text = (work / "metrics.json").read_bytes()
    results = json.loads(text)
    assert [entry["epoch"] for entry in results["history"]] == [1, 2]
    assert all(METRIC[task] in entry for entry in results["history"])
    assert results["metrics"][METRIC[task]] == results["history"][-1][METRIC[task]]
    assert set(results["floors"]) == {CONSTANT[task], "untrained"}
    assert (results["seed"], results["train"], results["val"]) == (0, 8, 4)
    with Image.open(work / "demo.png") as image:
        assert image.size[0] > image.size[1] > 500
    assert out[-1] == f"picture: {work}/demo.png"
    assert f"{results['metrics'][METRIC[task]]:8.3f}" in out[-2]

    for name in ("metrics.json", "demo.png"):  # as if killed after the training
        (work / name).unlink()
    demo(task)
    assert (work / "metrics.json").read_bytes() == text
    assert (work / "demo.png").exists()

    capsys.readouterr()
    demo(task)
    again = capsys.readouterr().out.splitlines()
    assert again[0] == f"already finished; delete {work} to start again"
    assert again[1:] == out[-5:]

    with pytest.raises(InputError, match=r"metrics\.json is of seed 0, not 1: delete"):
        demo(task, "--seed", "1")
