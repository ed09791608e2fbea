#!/usr/bin/env python
"""Follow targets through a video: ``python tools/track.py VIDEO --detector CONFIG CHECKPOINT``.

Writes the video with boxes, ids and ways (``tracks.mp4``), the tracks and what they are made of in
MOTChallenge's form (``tracks.txt``, ``detections.txt``) and a picture of tracks over time
(``tracks.png``).
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from statescan.mm import find_config, load_config
from statescan.mm.inference.following import (
    TRACKERS,
    build_tracker,
    from_detector,
    from_file,
    tracker_config,
)
from statescan.mm.inference.frames import Frames
from statescan.mm.inference.predictor import Predictor
from statescan.mm.inference.track_video import track_video
from statescan.mm.training.launch import run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MTP = "mambatrack_retinanet_vmamba_nano_pets"


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Follow targets through a video.")
    parser.add_argument("video", help="video file, or folder of frames")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--detector",
        nargs=2,
        metavar=("CONFIG", "CHECKPOINT"),
        help="detector: config file, or the name of one under configs/, and its weights",
    )
    source.add_argument("--detections", metavar="FILE", help="detections in MOTChallenge's form")
    parser.add_argument(
        "--tracker",
        default="mtp",
        help=f"{', '.join(TRACKERS)}; a config with a tracker, by file or name; or mtp, that of "
        f"{MTP}; default: %(default)s",
    )
    parser.add_argument(
        "--tracker-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override the tracker's config, such as motion.checkpoint=FILE or patience=60",
    )
    parser.add_argument("--labels", nargs="+", type=int, help="class numbers to follow; else all")
    parser.add_argument("--out", help="folder of the results; default work_dirs/track/VIDEO")
    parser.add_argument("--device", help="default: cuda where there is a GPU, else cpu")
    return parser.parse_args()


def choose_tracker(name: str, options: dict | None):
    """A tracker by its own name or that of a config."""
    if name in TRACKERS:
        return build_tracker(name, options)
    config = load_config(find_config(MTP if name == "mtp" else name, CONFIGS))
    return build_tracker(tracker_config(config), options)


def choose_detections(args: argparse.Namespace):
    """Detections from a file or of a detector."""
    if args.detections:
        return from_file(args.detections)
    name, checkpoint = args.detector
    config = load_config(find_config(name, CONFIGS))
    return from_detector(Predictor(config, checkpoint, args.device), args.labels)


def main() -> None:
    """Track and say what was written."""
    args = parse_args()
    frames = Frames(args.video)
    tracker = choose_tracker(args.tracker, args.tracker_options)
    folder = Path(args.out or f"work_dirs/track/{Path(args.video).stem}")
    tracks = track_video(frames, choose_detections(args), tracker, folder)
    if frames.unreadable:
        print(f"{frames.unreadable} of {len(frames)} frames cannot be read")
    ids = {int(i) for found in tracks.values() for i in found.ids}
    print(f"{len(ids)} targets in {len(tracks)} frames: tracks.mp4, .txt and .png in {folder}")


if __name__ == "__main__":
    run_tool(main)
