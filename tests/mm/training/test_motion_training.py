"""Training the motion predictor, and the tracker as MMDetection calls it."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

from statescan.mm import InputError, evaluate, find_config, load_config, train
from statescan.mm.checkpoints.files import latest_checkpoint
from statescan.mm.models.trackers import learned_motion
from statescan.mm.training.motion import InverseSqrtLR, MotionWindows
from statescan.tracking import mot_files
from statescan.tracking.mot_files import Boxes

CONFIGS = "configs/tracking"


def scene(length, seed=0):
    """Targets that move at constant velocities, each at its own."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(50, 500, (6, 2)), rng.uniform(-4, 4, (6, 2))
    for t in range(length):
        low = start + t * speed
        yield t + 1, Boxes(np.arange(6), np.hstack([low, low + np.array([20, 40])]), np.ones(6))


@pytest.fixture
def root(tmp_path):
    mot_files.write(tmp_path / "data" / "gt.txt", scene(60))
    return tmp_path / "data"


def config(root, work_dir, **options):
    small = {
        "data_root": str(root),
        "model.predictor": {"dim": 16, "depth": 1, "steps": 10},
        "param_scheduler": {
            "by_epoch": False,
            "type": "InverseSqrtLR",
            "dim": 16,
            "warmup": 20,
            "end": 999,
        },
        "train_dataloader.dataset.jitter": 0.0,
        "train_dataloader.dataset.frames": (1, 40),
        "val_dataloader.dataset.frames": (41, 60),
        "test_dataloader.dataset.frames": (41, 60),
        "train_cfg.max_epochs": 8,
        "train_cfg.val_interval": 1,
        **options,
    }
    return load_config(find_config("mtp_pets", CONFIGS), str(work_dir), small)


def test_it_learns_and_resumes_to_the_same_weights(root, tmp_path):
    whole = train(config(root, tmp_path / "whole"))
    history = whole.message_hub.get_info("history")
    assert history[-1]["error"] < 0.5 * history[-1]["error_at_rest"]
    train(config(root, tmp_path / "parts", **{"train_cfg.max_epochs": 3}))
    resumed = train(config(root, tmp_path / "parts"), resume="auto")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_what_was_predicted_is_kept(root, tmp_path):
    settings = config(root, tmp_path / "work", **{"train_cfg.max_epochs": 1})
    train(settings)
    metrics = evaluate(settings, latest_checkpoint(tmp_path / "work"), tmp_path / "kept").metrics
    with np.load(tmp_path / "kept.npz") as kept:
        assert kept["target"].shape[1:] == (4,)
        errors = np.abs(kept["predicted"] - kept["target"])
        assert metrics["error"] == pytest.approx(errors.mean())
        assert metrics["error_at_rest"] == pytest.approx(np.abs(kept["target"]).mean())


def test_the_schedule_is_the_transformers():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="by_epoch is True, expected False"):
        InverseSqrtLR(optimizer, dim=512)
    scheduler = InverseSqrtLR(optimizer, dim=512, warmup=4000, by_epoch=False)
    rates = []
    for _ in range(5000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(512**-0.5 * 4000**-1.5)
    assert np.argmax(rates) == 3999
    assert rates[4999] == pytest.approx(512**-0.5 * 5000**-0.5)


def test_jitter_moves_boxes_not_what_comes_next(root):
    """Noise of a box is in the change to it and, negated, in the change from it."""
    torch.manual_seed(0)
    clean = MotionWindows(str(root), ["gt.txt"], steps=4)
    noisy = MotionWindows(str(root), ["gt.txt"], steps=4, jitter=0.3)
    index = int((clean.windows.count == 2).argmax())
    before, after = clean[index], noisy[index]
    assert torch.equal(before["changes"][:2], after["changes"][:2])  # not there
    moved = (after["changes"] - before["changes"])[2:].sum(0) + after["target"] - before["target"]
    assert 0 < moved.abs().max() < 2  # all that is left is the noise of the first box
    assert not torch.equal(after["target"], before["target"])
    draws = torch.stack([noisy[index]["target"] - before["target"] for _ in range(2000)])
    assert draws.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"files": ["none/*.txt"]}, "no file under .* matches none/"),
        ({"files": ["gt.txt"], "frames": (59, 60)}, "tracks has 2 frames on end, expected at"),
    ],
)
def test_data_that_cannot_be_used(root, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        MotionWindows(str(root), **arguments)


def detections(frame, boxes):
    n = len(boxes)
    found = InstanceData(
        bboxes=torch.tensor(boxes).reshape(n, 4),
        scores=torch.full((n,), 0.9),
        labels=torch.zeros(n, dtype=torch.long),
    )
    return SimpleNamespace(metainfo={"frame_id": frame}, pred_instances=found)


@pytest.mark.parametrize("motion", ["Kalman", "ConstantVelocity", "Stationary"])
def test_as_mmdetection_calls_it(motion):
    tracker = MODELS.build({"type": "MambaTracker", "motion": {"type": motion}})
    a, b = [0.0, 0, 10, 10], [50.0, 0, 60, 10]
    assert tracker.track(detections(0, [a, b])).instances_id.tolist() == [0, 1]
    assert tracker.track(detections(1, [b]), img=None).instances_id.tolist() == [1]
    assert tracker.track(detections(2, [])).instances_id.tolist() == []
    assert tracker.track(detections(0, [b])).instances_id.tolist() == [0]


def test_trained_weights_reach_the_tracker(root, tmp_path):
    settings = config(root, tmp_path / "work", **{"train_cfg.max_epochs": 1})
    trained = train(settings).model.predictor
    path = latest_checkpoint(tmp_path / "work")
    motion = learned_motion(dict(settings.model.predictor), path)
    x, count = torch.randn(2, 10, 4), torch.tensor([3, 10])
    torch.testing.assert_close(motion.predictor(x, count), trained.eval()(x, count))
    with pytest.raises(InputError, match="is of another model"):
        learned_motion({"dim": 32, "depth": 1}, path)
    shutil.copy(path, tmp_path / "damaged.pth")
    with open(tmp_path / "damaged.pth", "r+b") as file:
        file.seek(2000)
        file.write(b"damage")
    with pytest.raises(InputError, match=r"damaged\.pth"):
        learned_motion(dict(settings.model.predictor), tmp_path / "damaged.pth")


@pytest.mark.parametrize("name", ["mtp_dancetrack", "mtp_sportsmot", "mtp_mot17"])
def test_published_recipe(name):
    settings = Config.fromfile(find_config(name, CONFIGS))
    with torch.device("meta"):
        model = MODELS.build(settings.model)
    predictor = model.predictor
    assert (predictor.embed.out_features, len(predictor.blocks), predictor.steps) == (512, 3, 10)
    assert settings.train_dataloader.batch_size == 64
    assert settings.optim_wrapper.optimizer.betas == (0.9, 0.98)
    assert settings.param_scheduler.warmup == 4000
