#!/usr/bin/env python
"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT --out metrics.json``.

Classifiers, detectors, segmenters and motion predictors alike. Several processes:
``torchrun --nproc_per_node=8 tools/test.py CONFIG CHECKPOINT``.
"""

import argparse
import json
from pathlib import Path

from mmengine.dist import is_main_process

from statescan.mm import evaluate
from statescan.mm.checkpoints.files import atomic_write
from statescan.mm.training.launch import add_arguments, read_config, run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint of any task.")
    add_arguments(parser)
    parser.add_argument("checkpoint", help="file of tools/train.py, or of the authors")
    parser.add_argument("--out", help="write the metrics to this JSON file too")
    parser.add_argument(
        "--predictions",
        metavar="PREFIX",
        help="write what is predicted: PREFIX.bbox.json and PREFIX.segm.json of detectors, a folder"
        " PREFIX of label maps of segmenters, PREFIX.npz of others",
    )
    return parser.parse_args()


def main() -> None:
    """Evaluate and print a table."""
    args = parse_args()
    config = read_config(args, CONFIGS)
    metrics = evaluate(config, args.checkpoint, args.predictions).metrics
    if not is_main_process():
        return
    for name, value in metrics.items():
        print(f"{name:24s} {value:.4f}")
    if args.out:
        atomic_write(args.out, (json.dumps(metrics, indent=2) + "\n").encode())


if __name__ == "__main__":
    run_tool(main)
