"""One training step in one of several processes; rank 0 saves the gradients.

Arguments: config, data folder, batch of this process, file for the gradients.
"""

import sys
import tempfile

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from statescan.mm import load_config
from statescan.mm.training.launch import build_runner, detect_launcher, run_tool


def main() -> None:
    config_path, data_root, batch, gradients = sys.argv[1:]
    options = {
        "data_root": data_root,
        "model.backbone.name": "test_convnext",
        "train_dataloader.batch_size": int(batch),
        "train_dataloader.num_workers": 0,
        "val_dataloader.num_workers": 0,
        "train_cfg.max_epochs": 1,
        "optim_wrapper.clip_grad": None,
        "env_cfg.torch_threads": 1,
        # all the randomness of the images, so that they do not depend on the process
        "train_dataloader.dataset.transform.no_aug": True,
    }
    config = load_config(config_path, tempfile.mkdtemp(), options)
    config.launcher = detect_launcher()
    runner = build_runner(config)
    saved = []

    def save(optimizer, *_):
        if not saved and runner.rank == 0:
            named = runner.model.named_parameters()
            saved.append({name.removeprefix("module."): p.grad for name, p in named})
            torch.save(saved[0], gradients)

    hook = register_optimizer_step_pre_hook(save)
    runner.train()
    hook.remove()


run_tool(main)
