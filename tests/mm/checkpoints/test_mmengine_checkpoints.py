"""Checkpoints of MMEngine's own hook, as the recipes of detectors and segmenters save them."""

import copy

import torch

from statescan.mm import train
from statescan.mm.checkpoints.files import latest_checkpoint


def test_resumes_in_the_middle_of_an_iteration_based_training(config):
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 4, "val_interval": 4}
    config.param_scheduler = [{"type": "LinearLR", "end": 3, "by_epoch": False}]
    hook = {
        "type": "CheckpointHook",
        "by_epoch": False,
        "interval": 2,
        "backend_args": {"backend": "statescan_atomic"},
    }
    config.default_hooks = {"checkpoint": hook, "logger": {"type": "LoggerHook", "interval": 1}}
    config.custom_hooks = []
    half = copy.deepcopy(config)
    half.train_cfg.max_iters = 2
    train(half)
    path = latest_checkpoint(config.work_dir)
    assert path.name == "iter_2.pth"
    runner = train(config, resume="auto")
    assert runner.iter == 4
    assert latest_checkpoint(config.work_dir).name == "iter_4.pth"
    saved = torch.load(path, weights_only=False)
    assert saved["message_hub"]["log_scalars"]  # which are left behind


def test_our_hooks_in_an_iteration_based_training(config):
    """A row and a checkpoint at each validation and at the end; the data go on where they were."""
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 7, "val_interval": 2}
    config.param_scheduler = [{"type": "LinearLR", "end": 3, "by_epoch": False}]
    config.default_hooks.checkpoint.keep = 4
    config.custom_hooks = []
    again = copy.deepcopy(config)
    again.work_dir += "_again"
    whole = train(config)
    names = {path.name for path in latest_checkpoint(config.work_dir).parent.glob("*.pth")}
    assert names == {"iter_2.pth", "iter_4.pth", "iter_6.pth", "iter_7.pth"}
    resumed = train(again, resume=f"{config.work_dir}/iter_4.pth")  # 4 batches are the data once
    assert latest_checkpoint(again.work_dir).name == "iter_7.pth"
    rows, others = (runner.message_hub.get_info("history") for runner in (whole, resumed))
    assert [row["iter"] for row in rows] == [2, 4, 6, 7]
    assert rows == others
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
