#!/usr/bin/env python
"""Show training samples of a detector or segmenter as the model gets them, after augmentation.

``python tools/browse_dataset.py CONFIG`` writes one picture with boxes, masks or label maps drawn.
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from statescan.mm import find_config, load_config
from statescan.mm.checkpoints.files import atomic_write
from statescan.mm.inference.media import Window
from statescan.mm.reports.picture import draw_sheet
from statescan.mm.reports.samples import draw_samples
from statescan.mm.training.launch import run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Draw training samples after augmentation.")
    parser.add_argument("config", help="config file, or the name of one under configs/")
    parser.add_argument("--out", help="PNG file; default work_dirs/browse_dataset/CONFIG.png")
    parser.add_argument("--number", type=int, default=12, help="of samples; default: %(default)s")
    parser.add_argument("--columns", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of choice and augmentation")
    parser.add_argument("--show", action="store_true", help="each in a window too, until a key")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    """Draw the samples and write the picture."""
    args = parse_args()
    path = find_config(args.config, CONFIGS)
    window = Window() if args.show else None
    config = load_config(path, options=args.cfg_options)
    images = draw_samples(config, args.number, args.seed)
    out = Path(args.out or f"work_dirs/browse_dataset/{path.stem}.png")
    atomic_write(out, draw_sheet(images, args.columns))
    print(f"wrote {len(images)} samples to {out}")
    for image in images if window else ():
        window.show(image)
        window.hold()


if __name__ == "__main__":
    run_tool(main)
