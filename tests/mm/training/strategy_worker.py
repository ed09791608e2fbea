"""Train a detector by DDP and evaluate it, then by FSDP, stopped after an epoch and resumed.

Arguments: config, data folder, folder for the work folders ``ddp`` and ``fsdp``. Each of the
processes that torchrun starts runs this.
"""

import json
import sys
from pathlib import Path

from mmengine.dist import is_main_process

from statescan.mm import evaluate, load_config, train
from statescan.mm.checkpoints.files import latest_checkpoint
from statescan.mm.training.launch import detect_launcher, run_tool
from statescan.mm.training.sharding import use_strategy


def main() -> None:
    path, data_root, folder = sys.argv[1:]

    def settings(strategy, epochs=2):
        options = {"data_root": data_root, "train_cfg.max_epochs": epochs}
        config = load_config(path, f"{folder}/{strategy}", options)
        config.launcher = detect_launcher()
        config.train_cfg.val_interval = 9
        use_strategy(config, strategy)
        return config

    train(settings("ddp"))
    metrics = evaluate(settings("ddp"), latest_checkpoint(f"{folder}/ddp")).metrics
    if is_main_process():
        Path(folder, "metrics.json").write_text(json.dumps(metrics))
    train(settings("fsdp", epochs=1))
    train(settings("fsdp"), resume="auto")


run_tool(main)
