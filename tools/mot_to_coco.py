#!/usr/bin/env python
"""Frames of a video and MOTChallenge ground truth as a COCO data set for training a detector.

``python tools/mot_to_coco.py VIDEO GT FOLDER --split train 1 400 --split test 401 795`` writes
``FOLDER/images/000001.jpg`` and so on, and ``FOLDER/instances_train.json`` and ``..._test.json``.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
from tqdm import tqdm

from statescan.files import atomic_write
from statescan.mm.errors import InputError
from statescan.mm.inference.frames import Frames
from statescan.mm.training.launch import run_tool
from statescan.tracking import mot_files
from statescan.tracking.coco import to_coco


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", help="video file, or folder of frames")
    parser.add_argument("truth", help="ground truth; its frame 1 is the first of the video")
    parser.add_argument("folder", type=Path, help="where to write the data set")
    parser.add_argument(
        "--split",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "FIRST", "LAST"),
        help="name of a part, and its first and last frame; may be given several times",
    )
    parser.add_argument("--category", default="pedestrian", help="what the boxes show")
    return parser.parse_args()


def write_images(frames: Frames, folder: Path) -> tuple[dict[int, str], tuple[int, int]]:
    """Write every frame that can be read; returns file names by number, and (width, height)."""
    names, size = {}, (0, 0)
    for number, picture in tqdm(frames, disable=not sys.stderr.isatty()):
        if picture is not None:
            names[number] = f"{number:06}.jpg"
            atomic_write(folder / names[number], cv2.imencode(".jpg", picture)[1].tobytes())
            size = picture.shape[1::-1]
    return names, size


def main() -> None:
    """Write images, then one JSON file a part."""
    args = parse_args()
    try:
        truth = mot_files.read(args.truth)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error
    frames = Frames(args.video)
    names, size = write_images(frames, args.folder / "images")
    print(f"{len(names)} images in {args.folder}/images, {frames.unreadable} could not be read")
    for part, first, last in args.split:
        chosen = [(n, name) for n, name in names.items() if int(first) <= n <= int(last)]
        data = to_coco(truth, chosen, size, args.category)
        atomic_write(args.folder / f"instances_{part}.json", json.dumps(data).encode())
        print(f"{part}: {len(chosen)} images, {len(data['annotations'])} boxes")


if __name__ == "__main__":
    run_tool(main)
