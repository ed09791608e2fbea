#!/usr/bin/env python
"""Say where a detector or segmenter errs, from predictions that tools/test.py saved.

``python tools/analyze_errors.py CONFIG PREDICTIONS`` prints each class's figures and writes
metrics.json, confusion.png, and worst.png: the worst images, truth beside prediction.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction

from statescan.mm import InputError, find_config, load_config
from statescan.mm.checkpoints.files import atomic_write
from statescan.mm.inference.predictor import building
from statescan.mm.reports.drawing import Painter
from statescan.mm.reports.picture import draw_confusion, draw_sheet
from statescan.mm.reports.samples import build_dataset
from statescan.mm.training.launch import run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Say where a detector or segmenter errs.")
    parser.add_argument("config", help="config file, or the name of one under configs/")
    parser.add_argument(
        "predictions", help="COCO result file (.bbox.json, .segm.json) or folder of PNG label maps"
    )
    parser.add_argument("--out", help="folder; default work_dirs/analyze_errors/CONFIG")
    parser.add_argument("--number", type=int, default=8, help="worst images; default: %(default)s")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="of detections in the confusion and in images' F1; default: %(default)s",
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def find_errors(config: Config, predictions: str, threshold: float):
    """``DetectionErrors`` or ``SegmentationErrors``, by the config's test data.

    Raises:
        InputError: The data are of neither kind, missing, or do not fit the predictions.
    """
    with building(config):
        from mmdet.datasets import CocoDataset
        from mmseg.datasets import BaseSegDataset

    from statescan.mm.reports.detection_errors import DetectionErrors
    from statescan.mm.reports.segmentation_errors import SegmentationErrors

    dataset = build_dataset(config, "test")
    if isinstance(dataset, CocoDataset):
        return DetectionErrors(dataset, predictions, threshold)
    if isinstance(dataset, BaseSegDataset):
        return SegmentationErrors(dataset, predictions, config)
    raise InputError(
        f"test data are {type(dataset).__name__}, expected MMDetection's CocoDataset or "
        "MMSegmentation's BaseSegDataset, or what is derived from them"
    )


def table(metrics: dict) -> str:
    """All classes' figures, then each class's."""
    rows = {"all": metrics["all"], **metrics["classes"]}
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {name:>14}" for name in metrics["all"])]
    for name, figures in rows.items():
        values = (figures.get(column) for column in metrics["all"])
        cells = ("–" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"{name:{width}}" + "".join(f"  {cell:>14}" for cell in cells))
    return "\n".join(lines)


def draw_worst(errors, number: int, threshold: float) -> bytes:
    """PNG of the images with the lowest scores, worst first, truth beside prediction."""
    painter = Painter(errors.classes, errors.dataset.metainfo.get("palette"), threshold)
    images, titles = [], []
    for index in np.argsort(errors.scores, kind="stable")[:number]:
        name = Path(errors.infos[index]["img_path"]).name
        images += errors.draw(index, painter)
        titles += [f"{name}: truth", errors.notes[index]]
    return draw_sheet(images, 2, titles)


def main() -> None:
    """Analyse, print a table and write files."""
    args = parse_args()
    path = find_config(args.config, CONFIGS)
    config = load_config(path, options=args.cfg_options)
    errors = find_errors(config, args.predictions, args.score_threshold)
    out = Path(args.out or f"work_dirs/analyze_errors/{path.stem}")
    metrics = errors.metrics()
    title = f"{path.stem}, {len(errors.infos)} images"
    atomic_write(out / "worst.png", draw_worst(errors, args.number, args.score_threshold))
    atomic_write(out / "confusion.png", draw_confusion(title, errors.confusion, errors.names))
    results = {
        **metrics,
        "confusion": {"names": errors.names, "counts": errors.confusion.tolist()},
        "images": {
            Path(info["img_path"]).name: round(float(score), 4)
            for info, score in zip(errors.infos, errors.scores, strict=True)
        },
    }
    atomic_write(out / "metrics.json", (json.dumps(results, indent=2) + "\n").encode())
    print(table(metrics))
    print(f"wrote metrics.json, confusion.png and worst.png to {out}")


if __name__ == "__main__":
    run_tool(main)
