#!/usr/bin/env python
"""Compare trainings of detectors or segmenters on the same data.

``python tools/report_runs.py work_dirs/A work_dirs/B --metric mIoU --out report.png`` draws the
curves of the metric and validation images with truth beside prediction, and prints in Markdown the
figures of each training's last validation beside what they have to beat.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config, DictAction

from statescan.files import atomic_write
from statescan.mm import InputError
from statescan.mm.dense_baselines import constant_boxes_map, constant_class_miou, evaluate_untrained
from statescan.mm.launch import run_tool
from statescan.mm.report import draw_report
from statescan.mm.runs import Run, Shown, read_run, show_run


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Compare trainings on the same data.")
    parser.add_argument("folders", nargs="+", help="work folders of tools/train.py")
    parser.add_argument("--metric", required=True, help="to draw, such as coco/bbox_mAP or mIoU")
    parser.add_argument("--title", default="", help="over the picture")
    parser.add_argument("--images", type=int, default=4, help="how many to draw")
    parser.add_argument("--out", required=True, help="write the picture to this PNG file")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


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


def label_maps(config: Config, split: str) -> list[Path]:
    """PNG files with the class numbers of a split of a segmenter's data."""
    dataset = config[f"{split}_dataloader"].dataset
    return sorted(Path(dataset.data_root, dataset.data_prefix.seg_map_path).glob("*.png"))


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
        maps = (label_maps(config, split) for split in ("train", "test"))
        miou = constant_class_miou(*maps, config.model.decode_head.num_classes)
        floors["commonest class"] = {"mIoU": miou}
    else:
        boxes = constant_boxes_map(annotations(config, "train"), annotations(config, "test"))
        floors["mean boxes"] = {"coco/bbox_mAP": boxes}
    return floors


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """A table in Markdown with the columns' keys as rows; what a column lacks is a dash."""
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    lines = [["", *columns], ["---"] + ["---:"] * len(columns)]
    for key in keys:
        values = (column.get(key, "–") for column in columns.values())
        lines.append([key, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(
    args: argparse.Namespace, runs: Sequence[Run], shown: Sequence[Shown], floors: dict
) -> bytes:
    """PNG of the comparison."""
    rows = {"truth": shown[0].truth}
    rows |= {run.name: one.predicted for run, one in zip(runs, shown, strict=True)}
    lines = {name: values[args.metric] for name, values in floors.items() if args.metric in values}
    return draw_report(
        args.title, args.metric, {run.name: run.history for run in runs}, lines, rows
    )


def main() -> None:
    """Draw and print."""
    args = parse_args()
    runs = [read_run(folder, args.cfg_options) for folder in args.folders]
    figures = [last_figures(run, args.metric) for run in runs]
    with redirect_stdout(sys.stderr):  # pycocotools prints what it does
        floors = measure_floors(runs[0].config)
        shown = [show_run(run, args.images) for run in runs]
    atomic_write(args.out, picture(args, runs, shown, floors))
    columns = {
        run.name: {"parameters": one.parameters, **values}
        for run, one, values in zip(runs, shown, figures, strict=True)
    }
    print(table(columns | floors))


if __name__ == "__main__":
    run_tool(main)
