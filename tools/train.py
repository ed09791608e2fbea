#!/usr/bin/env python
"""Train a classifier, detector, segmenter or motion predictor: ``python tools/train.py CONFIG``.

Several processes: ``torchrun --nproc_per_node=8 tools/train.py CONFIG``; on several machines with
torchrun's ``--nnodes`` and ``--rdzv-endpoint``.
"""

import argparse
from pathlib import Path

from statescan.mm.training.launch import add_arguments, read_config, run_tool, train, use_amp
from statescan.mm.training.sharding import STRATEGIES, use_strategy

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Train a model of any task.")
    add_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint, or from the last one in the work folder",
    )
    parser.add_argument("--amp", action="store_true", help="train under bf16 autocast")
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="ddp",
        help="of several processes: each has the whole model (ddp), or a part of it (fsdp)",
    )
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    config = read_config(args, CONFIGS)
    if args.amp:
        use_amp(config)
    use_strategy(config, args.strategy)
    train(config, args.resume)


if __name__ == "__main__":
    run_tool(main)
