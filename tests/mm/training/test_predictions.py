"""Where evaluators write; what they write is tested with the trainings."""

from pathlib import Path

import pytest
from mmengine.config import Config

from statescan.mm import InputError
from statescan.mm.training.predictions import keep_predictions


@pytest.fixture
def config():
    return Config({"test_evaluator": [{"type": "mmdet.CocoMetric"}, {"type": "DumpResults"}]})


def test_files_appear_whole_and_the_config_is_as_before(config, tmp_path):
    (tmp_path / "found.bbox.json").write_text("old")
    with keep_predictions(config, tmp_path / "found"):
        target = config.test_evaluator[0].outfile_prefix
        Path(f"{target}.bbox.json").write_text("new")
        assert (tmp_path / "found.bbox.json").read_text() == "old"
    assert (tmp_path / "found.bbox.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["found.bbox.json"]
    assert "outfile_prefix" not in config.test_evaluator[0]


def test_a_folder_of_label_maps_is_replaced(config, tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/old.png").touch()
    config.test_evaluator = {"type": "IoUMetric"}
    with keep_predictions(config, tmp_path / "maps"):
        Path(config.test_evaluator.output_dir, "new.png").touch()
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["new.png"]


def test_an_evaluation_that_fails_leaves_what_was_there(config, tmp_path):
    (tmp_path / "found.bbox.json").write_text("old")

    def fail():
        with keep_predictions(config, tmp_path / "found"):
            Path(f"{config.test_evaluator[0].outfile_prefix}.bbox.json").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("evaluator", "prefix", "sentence"),
    [
        ("VOCMetric", "found", "VOCMetric cannot write predictions, expected CocoMetric or IoU"),
        ("IoUMetric", "full", "full', a folder of other things: name a new one"),
        ("IoUMetric", "/", "'/', a folder of other things: name a new one"),
    ],
)
def test_what_cannot_be_written(config, tmp_path, evaluator, prefix, sentence):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    config.test_evaluator = {"type": evaluator}
    with (
        pytest.raises(InputError, match=sentence),
        keep_predictions(config, tmp_path / prefix),
    ):
        pytest.fail("it was not refused")
    assert (tmp_path / "full/notes.txt").exists()
