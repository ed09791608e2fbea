#!/usr/bin/env python
"""Train an image classifier: ``python tools/train.py vmamba_nano_cifar10``.

Several processes: ``torchrun --nproc_per_node=8 tools/train.py CONFIG``.
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from statescan.mm import find_config, load_config
from statescan.mm.launch import detect_launcher, run_tool, train, use_amp

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Train an image classifier.")
    parser.add_argument("config", help="config file, or the name of one under configs/")
    parser.add_argument("--work-dir", help="checkpoints and logs; default work_dirs/CONFIG")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint, or from the last one in the work folder",
    )
    parser.add_argument("--amp", action="store_true", help="train under bf16 autocast")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override config values, such as train_cfg.max_epochs=10",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default=detect_launcher(),
        help="default: pytorch under torchrun, else none",
    )
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    config = load_config(find_config(args.config, CONFIGS), args.work_dir, args.cfg_options)
    config.launcher = args.launcher
    if args.amp:
        use_amp(config)
    train(config, args.resume)


if __name__ == "__main__":
    run_tool(main)
