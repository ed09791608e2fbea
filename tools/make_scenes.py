#!/usr/bin/env python
"""Compose images with exact labels out of cut-outs and photographs: ``tools/make_scenes.py OUT``.

The cut-outs are Tux Paint's stamps: those installed, else Debian's package is downloaded (161 MB)
and unpacked below ``work_dirs``, which needs no root. ``--sprites FOLDER`` takes other RGBA PNGs,
one subfolder a category. ``--moving`` makes videos with track ids instead.
"""

import argparse

from statescan.mm.scenes.files import Plan, compose
from statescan.mm.scenes.sprites import folder_sprites, stamp_sprites, stamps
from statescan.mm.training.launch import run_tool

DEFAULTS = Plan()
CACHE = "work_dirs/stamps"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Compose scenes with exact labels.")
    parser.add_argument("out", help="folder to write, which must not exist")
    parser.add_argument("--sprites", metavar="FOLDER", help="RGBA PNGs, a subfolder a category")
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed)
    parser.add_argument(
        "--size", type=int, nargs=2, default=DEFAULTS.size, metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument("--train", type=int, help="images (default 400), or videos (4)")
    parser.add_argument("--val", type=int, help="images (default 100), or videos (2)")
    parser.add_argument(
        "--things", type=int, nargs=2, default=DEFAULTS.things, metavar=("LEAST", "MOST")
    )
    parser.add_argument("--moving", action="store_true", help="videos with MOTChallenge files")
    parser.add_argument("--frames", type=int, default=DEFAULTS.frames, help="of a video")
    parser.add_argument("--targets", type=int, default=DEFAULTS.targets, help="in a video")
    parser.add_argument(
        "--camera", type=float, default=DEFAULTS.camera, help="share of the image that it swings by"
    )
    return parser.parse_args()


def plan_of(args: argparse.Namespace) -> Plan:
    """What the arguments ask for."""
    values = {name: getattr(args, name) for name in Plan._fields}
    values |= {"size": tuple(args.size), "things": tuple(args.things)}
    for name, number in (("train", 4), ("val", 2)):
        if values[name] is None:
            values[name] = number if args.moving else getattr(DEFAULTS, name)
    return Plan(**values)


def main() -> None:
    """Compose."""
    args = parse_args()
    plan = plan_of(args)
    sprites = folder_sprites(args.sprites) if args.sprites else stamp_sprites(stamps(CACHE))
    made = compose(args.out, sprites, plan)
    what = "videos" if plan.moving else "images"
    counts = f"{plan.train} {what} for training and {plan.val} for validation"
    print(f"{counts}, {len(sprites)} categories" if made else f"already there: {args.out}")


if __name__ == "__main__":
    run_tool(main)
