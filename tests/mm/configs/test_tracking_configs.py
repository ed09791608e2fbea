"""Every config of a tracker and of its motion predictor is built."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from statescan.mm import load_config
from statescan.mm.inference.following import build_tracker, tracker_config

FOLDER = Path(__file__).parents[3] / "configs/tracking"
PREDICTORS = sorted(FOLDER.rglob("mtp_*.py"))
SYSTEMS = sorted(FOLDER.rglob("mambatrack_*.py"))


def test_no_config_is_forgotten():
    assert {path.name for path in FOLDER.rglob("*.py")} == {p.name for p in PREDICTORS + SYSTEMS}


@pytest.mark.parametrize("path", PREDICTORS, ids=lambda path: path.stem)
def test_predictor(path):
    config = load_config(path)
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert wrapper.optimizer.defaults["betas"] == (0.9, 0.98)
    assert config.param_scheduler.dim == model.predictor.embed.out_features
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.steps == model.predictor.steps


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_system(path):
    config = load_config(path)
    trained = Path(tracker_config(config).motion.checkpoint)
    predictor = load_config(FOLDER / "mambatrack" / f"{trained.parent.name}.py")
    assert trained.name == f"epoch_{predictor.train_cfg.max_epochs}.pth"
    assert tracker_config(config).motion.predictor.dim == predictor.model.predictor.dim
    tracker_config(config).motion.checkpoint = None
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(config.model)
        for loader in (config.train_dataloader, config.test_dataloader):
            for transform in loader.dataset.pipeline:
                TRANSFORMS.build(transform)
        build_optim_wrapper(model.detector, config.optim_wrapper)
    tracker = model.tracker.tracker
    assert (tracker.new_score, tracker.patience) == (0.6, 30)  # as published
    assert tracker.motion.patch


def test_a_tracker_of_a_config_alone(tmp_path):
    path = tmp_path / "own.py"
    path.write_text('tracker = dict(type="MambaTracker", motion=dict(type="Kalman"), patience=7)\n')
    config = tracker_config(load_config(path))
    assert build_tracker(config).tracker.patience == 7
    assert build_tracker(config, {"patience": 9}).tracker.patience == 9
