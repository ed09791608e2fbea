"""Checkpoints of MMEngine's own hook, as the recipes of detectors and segmenters save them."""

import copy

import torch

from statescan.mm import train
from statescan.mm.checkpoint import latest_checkpoint


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
