"""tools/demo.py on tiny images and models."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dense_data import SIZE, save_weights, write_checkpoint, write_config, write_images
from mmengine.dataset import pseudo_collate

from statescan.mm import load_config
from statescan.mm.inference.media import read_image
from statescan.mm.inference.predictor import Predictor, in_scope, read_metainfo
from statescan.mm.reports.drawing import Painter
from statescan.mm.reports.samples import build_dataset

ROOT = Path(__file__).resolve().parents[2]
BOXES = [[(4, 6, 20, 12, 0), (30, 20, 24, 16, 1)], [(10, 10, 30, 30, 1)]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two images, and configs and checkpoints of a detector and a segmenter."""
    root = write_images(tmp_path_factory.mktemp("data"), BOXES)
    for task in ("detection", "segmentation"):
        write_checkpoint(write_config(root, task))
    return root


@pytest.fixture
def demo(data, monkeypatch, tmp_path):
    """Runs the demo on a source and returns the folder of results."""

    def demo(source: Path, task: str = "segmentation", *more: str) -> Path:
        model = ["--config", str(data / f"{task}.py"), "--checkpoint", str(data / f"{task}.pth")]
        command = ["demo.py", str(source), *model, "--out", str(tmp_path / "out"), *more]
        monkeypatch.setattr("sys.argv", command)
        runpy.run_path(str(ROOT / "tools/demo.py"), run_name="__main__")
        return tmp_path / "out"

    return demo


def write_video(path: Path, frames: int, rate: float) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, SIZE[::-1])
    for shade in np.linspace(50, 200, frames):
        writer.write(np.full((*SIZE, 3), shade, np.uint8))
    writer.release()
    return path


def read_video(path: Path) -> tuple[float, int]:
    """Frame rate and number of frames."""
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    return rate, frames


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_an_image(demo, data, task, capsys):
    source = data / "images/0.png"
    out = demo(source, task, "--score-threshold", "0")
    drawn, before = cv2.imread(str(out / "0.png")), cv2.imread(str(source))
    assert drawn.shape == before.shape
    assert not np.array_equal(drawn, before)
    assert "the last is 0.png" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("size", [(5, 90), (97, 9)], ids=str)
def test_any_size(demo, tmp_path, task, size):
    source = tmp_path / "odd.png"
    cv2.imwrite(str(source), np.full((*size, 3), 120, np.uint8))
    out = demo(source, task, "--score-threshold", "0")
    assert cv2.imread(str(out / "odd.png")).shape == (*size, 3)


def test_a_classifiers_answer(monkeypatch, tmp_path, capsys):
    options = ["model.backbone.name=test_vmamba", f"data_root={tmp_path}/none"]
    config = load_config(ROOT / "configs/classification/vmamba/vmamba_nano_cifar10.py")
    config.merge_from_dict({"model.backbone.name": "test_vmamba"})
    save_weights(config, tmp_path / "classifier.pth")
    source = tmp_path / "small.jpg"
    cv2.imwrite(str(source), np.full((32, 40, 3), 120, np.uint8))
    command = [
        "demo.py",
        str(source),
        "--config",
        "vmamba_nano_cifar10",
        "--out",
        f"{tmp_path}/out",
    ]
    checkpoint = ["--checkpoint", str(tmp_path / "classifier.pth")]
    monkeypatch.setattr("sys.argv", [*command, *checkpoint, "--cfg-options", *options])
    answers = []
    monkeypatch.setattr(Painter, "name", lambda self, number: answers.append(number) or "a name")
    runpy.run_path(str(ROOT / "tools/demo.py"), run_name="__main__")
    drawn = cv2.imread(str(tmp_path / "out/small.jpg"))
    assert drawn.shape == (224, 280, 3)
    assert np.abs(drawn[:20, :40].astype(int) - 120).max() > 50  # the name's ground
    assert np.abs(drawn[100:].astype(int) - 120).max() < 5
    assert len(answers) == 1
    assert answers[0] in range(10)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_finds_what_an_evaluation_of_the_file_finds(data, task):
    config = load_config(data / f"{task}.py")
    predictor = Predictor(config, data / f"{task}.pth", "cpu")
    with torch.inference_mode(), in_scope(config):
        batch = pseudo_collate([build_dataset(config, "test")[1]])
        (expected,) = predictor.model.test_step(batch)
    found = predictor(read_image(data / "images/1.png"))
    if task == "detection":
        assert len(found.pred_instances) > 0
        assert torch.equal(found.pred_instances.bboxes, expected.pred_instances.bboxes)
        assert torch.equal(found.pred_instances.masks, expected.pred_instances.masks)
    else:
        assert found.pred_sem_seg.data.shape == (1, *SIZE)
        assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_classes_and_colours_of_the_kind_of_data(data):
    config = load_config(data / "detection.py")
    assert read_metainfo(config)["classes"] == ("red", "blue")
    del config.test_dataloader.dataset["metainfo"]
    coco = read_metainfo(config)
    assert (len(coco["classes"]), len(coco["palette"]), coco["classes"][0]) == (80, 80, "person")
    config = load_config(data / "segmentation.py")
    config.test_dataloader.dataset = dict(type="CityscapesDataset", data_root="nowhere")
    assert read_metainfo(config)["classes"][:2] == ("road", "sidewalk")


def test_above_the_threshold_is_nothing(demo, data):
    out = demo(data / "images/0.png", "detection", "--score-threshold", "1.01")
    assert np.array_equal(cv2.imread(str(out / "0.png")), cv2.imread(str(data / "images/0.png")))


def test_a_folder_with_unreadable_files(demo, data, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    whole = (data / "images/0.png").read_bytes()
    (folder / "a.png").write_bytes(whole)
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "c.txt").write_text("no image")
    cv2.imwrite(str(folder / "d.jpg"), np.full((31, 77, 3), 90, np.uint8))
    out = demo(folder)
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "d.jpg"]
    assert cv2.imread(str(out / "d.jpg")).shape == (31, 77, 3)
    assert "left out: 2 of 4 files cannot be read: b.png, c.txt" in capsys.readouterr().out


def test_a_video_keeps_its_rate(demo, tmp_path):
    out = demo(write_video(tmp_path / "clip.mp4", 6, 12.5))
    assert [path.name for path in out.iterdir()] == ["clip.mp4"]
    assert read_video(out / "clip.mp4") == (12.5, 6)


def test_an_interrupted_video_leaves_nothing(demo, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Painter, "prediction", interrupt)
    with pytest.raises(SystemExit, match="stopped"):
        demo(write_video(tmp_path / "clip.mp4", 6, 12.5))
    assert list((tmp_path / "out").iterdir()) == []


def test_shows_each_and_waits_at_the_end(demo, data, monkeypatch):
    shown, waits = [], []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda name, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", waits.append)
    out = demo(data / "images", "segmentation", "--show")
    assert waits == [1, 1, 0]
    assert np.array_equal(shown[1], cv2.imread(str(out / "1.png")))


def test_no_screen(demo, data, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SystemExit, match=r"^error: --show needs a screen"):
        demo(data / "images", "segmentation", "--show")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.png", None, "there is no image, folder or video '{}'"),
        ("text.mp4", b"no video", "'{}' cannot be read, as an image or as a video"),
        ("half.png", b"\x89PNG\r\n\x1a\n", "image '{}' ends early: mend or remove it"),
        ("empty", {}, "folder '{}' has no image that can be read"),
    ],
    ids=["missing", "no-video", "damaged", "empty-folder"],
)
def test_bad_sources_are_one_sentence(demo, tmp_path, name, content, sentence):
    source = tmp_path / name
    if content == {}:
        source.mkdir()
    elif content is not None:
        source.write_bytes(content)
    with pytest.raises(SystemExit) as exit:
        demo(source)
    assert exit.value.code.startswith("error: " + sentence.format(source))
    assert not (tmp_path / "out").exists()


def test_results_may_not_replace_their_sources(demo, data):
    with pytest.raises(SystemExit, match="would replace what they are made of"):
        demo(data / "images", "segmentation", "--out", str(data / "images"))


def test_a_checkpoint_of_another_model(demo, data):
    with pytest.raises(SystemExit, match=r"detection\.pth is of another model: .* missing"):
        demo(data / "images", "segmentation", "--checkpoint", str(data / "detection.pth"))
