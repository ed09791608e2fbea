"""Train a detector in several processes; then evaluate it.

Arguments: config, data folder, work folder, strategy, epochs after which to stop and resume.
"""

import json
import sys
from pathlib import Path

from mmengine.dist import is_main_process

from statescan.mm import evaluate, load_config, train
from statescan.mm.checkpoint import latest_checkpoint
from statescan.mm.launch import detect_launcher, run_tool
from statescan.mm.sharding import use_strategy


def main() -> None:
    path, data_root, work_dir, strategy, *stops = sys.argv[1:]

    def settings():
        config = load_config(path, work_dir, {"data_root": data_root})
        config.launcher = detect_launcher()
        use_strategy(config, strategy)
        return config

    for stop in stops:
        config = settings()
        config.train_cfg.max_epochs = int(stop)
        train(config, resume="auto")
    metrics = evaluate(settings(), latest_checkpoint(work_dir)).metrics
    if is_main_process():
        Path(work_dir, "metrics.json").write_text(json.dumps(metrics))


run_tool(main)
