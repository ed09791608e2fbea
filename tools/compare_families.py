#!/usr/bin/env python
"""Train a small model of every family on CIFAR-10 with the same short budget and write the table.

``python tools/compare_families.py --data-root data/cifar10`` trains each of the configs called
``*_cifar10`` under configs/classification, one after the other, and writes docs/cifar10.md. Killed
at any moment, the same command goes on. Logistic regression on the pixels is the floor.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction

from statescan.mm import InputError, evaluate, load_config, train
from statescan.mm.checkpoints.files import atomic_write, latest_checkpoint
from statescan.mm.data.classification import Cifar10
from statescan.mm.reports.baselines import baselines
from statescan.mm.training.launch import run_tool

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs/classification"
PAGE = ROOT / "docs/cifar10.md"
HEAD = """# Every family on CIFAR-10, with the same short budget

Proof that each family learns, no benchmark of what it can reach: {epochs} epochs of 50,000 images
of 32x32 pixels, batch {batch}, AdamW and one schedule for all (`configs/_base_/cifar10.py`,
shortened), {seeds}, float32 on a {device}. The images are JPEG copies, so accuracies are not
exactly those on the original pixels. Minutes are of a shared machine and say little.

    python tools/compare_families.py --data-root PATH --epochs {epochs} --seeds {seed_list}

| model | parameters | top-1, test | minutes |
|---|---|---|---|
"""


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Compare all families on CIFAR-10.")
    parser.add_argument("--data-root", required=True, help="folder of the two npz files")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work-dir", default="work_dirs/families")
    parser.add_argument("--only", default="*", help="wildcard for names of configs")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table is written")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def shorten(config: Config, epochs: int) -> None:
    """Fit a config's schedule into fewer epochs; the first of them warms up."""
    warm_up, cosine = config.param_scheduler
    warm_up.end = cosine.begin = 1
    cosine.end = epochs
    config.train_cfg.max_epochs = config.train_cfg.val_interval = epochs


def run(path: Path, seed: int, args: argparse.Namespace) -> dict:
    """Train and evaluate one config, unless that has been done; its row of the table."""
    work_dir = Path(args.work_dir, f"{path.stem}_{args.epochs}_{seed}")
    results = work_dir / "metrics.json"
    if not results.exists():
        options = {"data_root": args.data_root, "randomness.seed": seed, **(args.cfg_options or {})}
        config = load_config(path, str(work_dir), options)
        shorten(config, args.epochs)
        started = time.monotonic()
        runner = train(config, resume="auto")
        minutes = (time.monotonic() - started) / 60
        parameters = sum(p.numel() for p in runner.model.parameters())
        metrics = evaluate(config, latest_checkpoint(work_dir)).metrics
        row = {"model": path.stem.removesuffix("_cifar10"), "parameters": parameters, "seed": seed}
        row |= {"top1": metrics["top1"], "minutes": minutes}
        atomic_write(results, (json.dumps(row, indent=2) + "\n").encode())
    return json.loads(results.read_text())


def pixels(data_root: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3072) values in [0, 1] and (N,) class numbers of a split."""
    data = Cifar10(data_root, split, dict(input_size=32))
    images = [np.asarray(data.load(i)[0], dtype=np.float32) / 255 for i in range(len(data))]
    return np.stack(images).reshape(len(data), -1), data.labels


def floor(args: argparse.Namespace) -> dict[str, float]:
    """Top-1 of the majority class and of logistic regression on the pixels."""
    results = Path(args.work_dir, "floor.json")
    if not results.exists():
        train_pixels, test_pixels = (pixels(args.data_root, s) for s in ("train", "test"))
        values = baselines(train_pixels, test_pixels, ["top1"])
        results.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(results, json.dumps({n: v["top1"] for n, v in values.items()}).encode())
    return json.loads(results.read_text())


def table(rows: list[dict], references: dict[str, float], args: argparse.Namespace) -> str:
    """The page: best first, the references among them."""
    by_model: dict[str, list[dict]] = {}
    for result in rows:
        by_model.setdefault(result["model"], []).append(result)
    lines = [line(name, runs) for name, runs in by_model.items()]
    lines += [(value, (name, "", f"{100 * value:.1f}", "")) for name, value in references.items()]
    lines.sort(key=lambda line: -line[0])
    head = HEAD.format(
        epochs=args.epochs,
        batch=load_config(CONFIGS / "vmamba/vmamba_nano_cifar10.py").train_dataloader.batch_size,
        seeds=f"seed{'s' * (len(args.seeds) > 1)} {', '.join(map(str, args.seeds))}",
        seed_list=" ".join(map(str, args.seeds)),
        device="GPU" if torch.cuda.is_available() else "CPU",
    )
    return head + "\n".join(f"| {' | '.join(cells)} |" for _, cells in lines) + "\n"


def line(name: str, runs: list[dict]) -> tuple[float, tuple[str, ...]]:
    """Mean accuracy and the cells of a model with one run a seed."""
    scores = [run["top1"] for run in runs]
    shown = " / ".join(f"{100 * score:.1f}" for score in scores)
    minutes = np.mean([run["minutes"] for run in runs])
    return np.mean(scores), (f"`{name}`", f"{runs[0]['parameters']:,}", shown, f"{minutes:.1f}")


def main() -> None:
    """Train, evaluate, write the table."""
    args = parse_args()
    if args.epochs < 2:
        raise InputError(f"--epochs is {args.epochs}, expected at least 2: the first warms up")
    references = floor(args)
    paths = sorted(CONFIGS.rglob(f"{args.only}_cifar10.py"), key=lambda path: path.stem)
    rows = [run(path, seed, args) for path in paths for seed in args.seeds]
    text = table(rows, references, args)
    atomic_write(args.page, text.encode())
    print(text)


if __name__ == "__main__":
    run_tool(main)
