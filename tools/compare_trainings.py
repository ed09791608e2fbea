#!/usr/bin/env python
"""Train detectors or segmenters on the same data, with one or more seeds each, and compare them.

``python tools/compare_trainings.py CONFIG CONFIG --seeds 0 1 2 --metric mIoU --out report.png``
trains each config with each seed, draws the curves of the metric and validation images with truth
beside the first seed's prediction, and prints in Markdown the figures of the last validations,
mean and standard deviation where there are more seeds, beside what they have to beat. Killed at
any moment, the same command goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmengine.config import Config, DictAction

from statescan.files import atomic_write
from statescan.mm import InputError, find_config, load_config
from statescan.mm.reports.dense_baselines import (
    constant_boxes_map,
    constant_class,
    evaluate_untrained,
)
from statescan.mm.reports.runs import Run, finish, show_run
from statescan.mm.reports.trainings import draw_report
from statescan.mm.training.launch import run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Compare trainings on the same data.")
    parser.add_argument("configs", nargs="+", help="config files, or names of some under configs/")
    parser.add_argument("--names", nargs="+", help="of the trainings; default those of the configs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--metric", required=True, help="to draw, such as coco/bbox_mAP or mIoU")
    parser.add_argument("--title", default="", help="over the picture")
    parser.add_argument("--images", type=int, default=4, help="how many to draw")
    parser.add_argument("--out", required=True, help="write the picture to this PNG file")
    parser.add_argument("--work-dir", default="work_dirs", help="of a folder CONFIG_SEED each")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    args = parser.parse_args()
    args.names = args.names or [Path(config).stem for config in args.configs]
    if len(set(args.names)) != len(args.configs):
        raise InputError(f"--names are {args.names}, expected {len(args.configs)} different ones")
    return args


def train_seeds(name: str, args: argparse.Namespace) -> list[Run]:
    """The trainings of a config, one a seed."""
    path = find_config(name, CONFIGS)
    configs = [
        load_config(
            path,
            str(Path(args.work_dir, f"{path.stem}_{seed}")),
            {**(args.cfg_options or {}), "randomness.seed": seed},
        )
        for seed in args.seeds
    ]
    return [finish(config) for config in configs]


def last_figures(run: Run, metric: str) -> dict[str, float]:
    """Metrics of a training's last validation.

    Raises:
        InputError: The metric is not among them.
    """
    figures = next((entry for entry in reversed(run.history) if metric in entry), None)
    if figures is None:
        known = sorted(set().union(*run.history) - {"epoch", "lr", "loss"})
        raise InputError(f"there is no metric {metric!r} in {run.checkpoint}, but {known}")
    return {name: value for name, value in figures.items() if name not in ("lr", "loss")}


def annotations(config: Config, split: str) -> Path:
    """COCO file of a split of a detector's data."""
    dataset = config[f"{split}_dataloader"].dataset
    return Path(dataset.data_root, dataset.ann_file)


def measure_floors(config: Config) -> dict[str, dict[str, float]]:
    """Metrics, by name, of the untrained model and of an answer that sees no image."""
    with TemporaryDirectory() as folder:
        config = deepcopy(config)
        config.work_dir = folder
        floors = {"untrained": evaluate_untrained(config, Path(folder) / "untrained.pth")}
    if "decode_head" in config.model:
        floors["commonest class"] = constant_class(config)
    else:
        boxes = constant_boxes_map(annotations(config, "train"), annotations(config, "test"))
        floors["mean boxes"] = {"coco/bbox_mAP": boxes}
    return floors


def summarize(runs: Sequence[Run], metric: str) -> dict[str, str]:
    """Cells of a training's column: the last figures, over its seeds where there are more."""
    figures = [last_figures(run, metric) for run in runs]
    values = {name: [one[name] for one in figures if name in one] for name in figures[0]}
    cells = {name: mean_and_deviation(found) for name, found in values.items()}
    if len(runs) > 1:
        cells[f"{metric} by seed"] = ", ".join(map(show, values[metric]))
    return cells


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean and, of values that differ, their standard deviation."""
    mean = show(np.mean(values))
    return mean if len(set(values)) == 1 else f"{mean} ± {np.std(values, ddof=1):.2g}"


def show(value: float) -> str:
    """Four digits of a number."""
    return f"{value:.4g}"


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """A table in Markdown with the columns' keys as rows; what a column lacks is a dash."""
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    lines = [["", *columns], ["---"] + ["---:"] * len(columns)]
    lines += [[key, *(column.get(key, "–") for column in columns.values())] for key in keys]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Train, draw and print."""
    args = parse_args()
    trainings = {
        name: train_seeds(config, args)
        for name, config in zip(args.names, args.configs, strict=True)
    }
    columns = {name: summarize(runs, args.metric) for name, runs in trainings.items()}
    firsts = {name: runs[0] for name, runs in trainings.items()}
    with redirect_stdout(sys.stderr):  # pycocotools prints what it does
        floors = measure_floors(firsts[args.names[0]].config)
        shown = {name: show_run(run, args.images) for name, run in firsts.items()}
    histories = {name: [run.history for run in runs] for name, runs in trainings.items()}
    lines = {name: values[args.metric] for name, values in floors.items() if args.metric in values}
    rows = {"truth": shown[args.names[0]].truth}
    rows |= {name: one.predicted for name, one in shown.items()}
    atomic_write(args.out, draw_report(args.title, args.metric, histories, lines, rows))
    columns = {n: {"parameters": str(shown[n].parameters)} | cells for n, cells in columns.items()}
    floors = {name: {k: show(v) for k, v in values.items()} for name, values in floors.items()}
    print(table(columns | floors))


if __name__ == "__main__":
    run_tool(main)
