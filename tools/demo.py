#!/usr/bin/env python
"""Show what a model finds in images or a video.

``python tools/demo.py IMAGE|FOLDER|VIDEO --config CONFIG --checkpoint FILE`` draws boxes, masks and
names of a detector, instance or semantic segmenter, or the answer of a classifier, and writes the
drawn images, or a video of the same frame rate, into a folder.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.config import DictAction

from statescan.mm import find_config, load_config
from statescan.mm.inference.media import Window, redraw
from statescan.mm.inference.predictor import Predictor, read_metainfo
from statescan.mm.reports.drawing import Painter
from statescan.mm.training.launch import run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Draw what a model finds in images or a video.")
    parser.add_argument("source", help="an image, a folder of images or a video")
    parser.add_argument("--config", required=True, help="file, or the name of one under configs/")
    parser.add_argument("--checkpoint", required=True, help="the model's weights")
    parser.add_argument("--out", help="folder of the results; default work_dirs/demo/CONFIG")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="default: %(default)s")
    parser.add_argument("--show", action="store_true", help="in a window too")
    parser.add_argument("--device", help="default: cuda where there is a GPU, else cpu")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def draw_with(
    predictor: Predictor, painter: Painter, window: Window | None
) -> Callable[[np.ndarray], np.ndarray]:
    """From an image to one with what is found in it, shown too where there is a window."""

    def draw(image: np.ndarray) -> np.ndarray:
        drawn = painter.prediction(image, predictor(image))
        if window:
            window.show(drawn)
        return drawn

    return draw


def main() -> None:
    """Predict, draw and say what was written."""
    args = parse_args()
    path = find_config(args.config, CONFIGS)
    config = load_config(path, options=args.cfg_options)
    window = Window() if args.show else None
    painter = Painter(**read_metainfo(config), threshold=args.score_threshold)
    predictor = Predictor(config, args.checkpoint, args.device)
    folder = Path(args.out or f"work_dirs/demo/{path.stem}")
    written = redraw(args.source, folder, draw_with(predictor, painter, window))
    for problem in written.problems:
        print(f"left out: {problem}")
    print(f"wrote {len(written.paths)} file(s) to {folder}, the last is {written.paths[-1].name}")
    if window:
        window.hold()


if __name__ == "__main__":
    run_tool(main)
