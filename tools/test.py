#!/usr/bin/env python
"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT --out metrics.json``."""

import argparse
import json
from pathlib import Path

from mmengine.config import DictAction
from mmengine.dist import is_main_process

from statescan.mm import evaluate, find_config, load_config
from statescan.mm.checkpoint import atomic_write
from statescan.mm.launch import detect_launcher, run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    parser.add_argument("config", help="config file, or the name of one under configs/")
    parser.add_argument("checkpoint", help="file written by tools/train.py")
    parser.add_argument("--work-dir", help="logs; default work_dirs/CONFIG")
    parser.add_argument("--out", help="write the metrics to this JSON file too")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    """Evaluate and print a table."""
    args = parse_args()
    config = load_config(find_config(args.config, CONFIGS), args.work_dir, args.cfg_options)
    config.launcher = detect_launcher()
    metrics = evaluate(config, args.checkpoint).metrics
    if not is_main_process():
        return
    for name, value in metrics.items():
        print(f"{name:20s} {value:.4f}")
    if args.out:
        atomic_write(args.out, (json.dumps(metrics, indent=2) + "\n").encode())


if __name__ == "__main__":
    run_tool(main)
