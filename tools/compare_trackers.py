#!/usr/bin/env python
"""Compare trackers on the same detections: ``python tools/compare_trackers.py``.

On PETS09-S2L1 (frames after the 400th; public detections, and ground truth without 30 % of its
boxes) and on composed boxes that turn, stop and cross, with a detector's noise. Motion predictors
that are not trained yet are trained first. Writes the table into docs/tracking.md.
"""

import argparse
import json
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import DictAction
from tqdm import tqdm

from statescan.files import atomic_write
from statescan.mm import InputError, find_config, load_config, train
from statescan.mm.checkpoints.files import latest_checkpoint
from statescan.mm.inference.following import build_tracker, follow
from statescan.mm.training.launch import run_tool
from statescan.tracking import mot_files
from statescan.tracking.evaluation import TOGETHER, evaluate_each
from statescan.tracking.mot_files import NO_BOXES, Boxes
from statescan.tracking.noise import detected, dropped
from statescan.tracking.scenes import moving_boxes

ROOT = Path(__file__).resolve().parents[1]
CONFIGS, PAGE = ROOT / "configs", ROOT / "docs/tracking.md"
BEGIN, END = "<!-- compare_trackers.py writes below -->\n", "<!-- and above -->\n"
TEST = range(401, 796)  # frames of PETS
MEASURES = ("HOTA", "AssA", "DetA", "MOTA", "IDF1", "IDSW")
SIZE, LENGTH, TARGETS = (960, 540), 200, 12  # of composed scenes
TRAIN, VAL, SCENES = range(1000, 1010), range(2000, 2002), range(3)  # their seeds

Frames = dict[int, Boxes]
ROWS = {
    "IoU only": "stationary",
    "constant velocity": "constant_velocity",
    "Kalman, MambaTrack's association": "kalman",
    "Kalman, SORT": "sort",
    "Kalman, ByteTrack": "bytetrack",
    "OC-SORT": "ocsort",
    "MTP without patching": "mtp_alone",
    "MTP with patching": "mtp",
}


class Videos(NamedTuple):
    """What trackers are given, and the predictor's config that belongs to it."""

    title: str
    predictor: str
    truth: dict[str, Frames]  # by name of the video, frames from 1
    detections: dict[str, Frames]
    length: int


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pets", type=Path, default=Path("data/pets09_s2l1"), help="folder of gt.txt and det.txt"
    )
    parser.add_argument(
        "--own", metavar="FILE", help="a detector's detections.txt of PETS, from tools/track.py"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/compare_trackers"))
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose table is replaced")
    parser.add_argument("--only", nargs="+", choices=ROWS.values(), default=list(ROWS.values()))
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="of the trainings"
    )
    return parser.parse_args()


def read_pets(path: str | Path) -> Frames:
    """The test frames of a file, from 1.

    Raises:
        InputError: It is not there.
    """
    try:
        frames = mot_files.read(path)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error
    return {i: frames.get(number, NO_BOXES) for i, number in enumerate(TEST, start=1)}


def all_videos(pets: Path, own: str | None) -> Iterator[Videos]:
    """The comparisons."""
    truth, public = read_pets(pets / "gt.txt"), read_pets(pets / "det.txt")
    title = "PETS09-S2L1, frames 401 to 795, public detections"
    yield Videos(title, "mtp_pets", {"pets": truth}, {"pets": public}, len(TEST))
    if own:
        title = "PETS09-S2L1, the same frames, our detector trained on the first 400"
        yield Videos(title, "mtp_pets", {"pets": truth}, {"pets": read_pets(own)}, len(TEST))
    title = "PETS09-S2L1, the same frames, ground truth without 30 % of its boxes"
    thinned = dropped(truth, 0.3, seed=0)
    yield Videos(title, "mtp_pets", {"pets": truth}, {"pets": thinned}, len(TEST))
    scenes = {f"scene{seed}": moving_boxes(seed, LENGTH, TARGETS, SIZE) for seed in SCENES}
    noisy = {
        name: detected(scenes[name], SIZE, seed) for name, seed in zip(scenes, SCENES, strict=True)
    }
    title = f"Composed boxes that turn, stop and cross, a detector's noise ({len(SCENES)} seeds)"
    yield Videos(title, "mtp_scenes", scenes, noisy, LENGTH)


def write_scenes(folder: Path) -> None:
    """Ground truth for training and validation, of other seeds than the comparison's."""
    for part, seeds in (("train", TRAIN), ("val", VAL)):
        for seed in seeds:
            boxes = moving_boxes(seed, LENGTH, TARGETS, SIZE)
            mot_files.write(folder / part / str(seed) / "gt/gt.txt", boxes.items())


def trained(name: str, data_root: str, work_dir: Path, options: dict | None) -> dict:
    """The motion of a predictor's config, trained unless it is."""
    folder = work_dir / name
    options = {**(options or {}), "data_root": data_root}
    config = load_config(find_config(name, CONFIGS), str(folder), options)
    last = folder / f"epoch_{config.train_cfg.max_epochs}.pth"
    if latest_checkpoint(folder) != last:
        train(config, resume="auto")
    predictor = dict(config.model.predictor)
    return dict(type="LearnedMotion", predictor=predictor, checkpoint=str(last))


def tracker_of(row: str, motion: dict):
    """A new tracker for a row of the table."""
    if not row.startswith("mtp"):
        return build_tracker(row)
    return build_tracker(dict(type="MambaTracker", motion={**motion, "patch": row == "mtp"}))


def measure(videos: Videos, row: str, motion: dict) -> dict[str, float]:
    """All measures over all videos together, and how HOTA spreads from one to another."""
    numbers = range(1, videos.length + 1)
    results = {
        name: follow(tracker_of(row, motion), detections, numbers)
        for name, detections in videos.detections.items()
    }
    each = evaluate_each(videos.truth, results, dict.fromkeys(results, videos.length))
    spread = np.std([each[name]["HOTA"] for name in results])
    return {**each[TOGETHER], "spread": float(spread)}


def table(rows: dict[str, dict]) -> str:
    """A table in Markdown, the best figure of each column in bold."""
    best = {m: (min if m == "IDSW" else max)(r[m] for r in rows.values()) for m in MEASURES}
    lines = ["| tracker | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    titles = {row: title for title, row in ROWS.items()}
    for row, found in rows.items():
        cells = [titles[row]]
        for m in MEASURES:
            text = f"{found[m]:.0f}" if m == "IDSW" else f"{100 * found[m]:.1f}"
            spread = f" ± {100 * found['spread']:.1f}" if m == "HOTA" and found["spread"] else ""
            cells.append(f"**{text}**{spread}" if found[m] == best[m] else text + spread)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def around_table(page: Path) -> tuple[str, str]:
    """What stands before and after the tables of a page, marks included.

    Raises:
        InputError: The page has no such marks.
    """
    text = page.read_text() if page.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{page} has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    return text.split(BEGIN)[0] + BEGIN, END + text.split(END)[1]


def in_parallel(tasks: list[tuple], jobs: int) -> list[dict[str, float]]:
    """What `measure` says of each task, in as many processes."""
    if jobs == 1:
        return [measure(*task) for task in tqdm(tasks, disable=None)]
    with get_context("fork").Pool(jobs) as pool:  # without importing torch again
        answers = [pool.apply_async(measure, task) for task in tasks]
        return [answer.get() for answer in tqdm(answers, disable=None)]


def main() -> None:
    """Train, compare, write."""
    args = parse_args()
    torch.set_num_threads(1)  # boxes are few
    around_table(args.page)  # now, not after minutes
    write_scenes(args.work_dir / "scenes")
    roots = {"mtp_pets": str(args.pets), "mtp_scenes": str(args.work_dir / "scenes")}
    motions = {
        name: trained(name, root, args.work_dir, args.cfg_options) for name, root in roots.items()
    }
    compared = list(all_videos(args.pets, args.own))
    tasks = [(videos, row, motions[videos.predictor]) for videos in compared for row in args.only]
    results: dict[str, dict] = {videos.title: {} for videos in compared}
    for (videos, row, _), found in zip(tasks, in_parallel(tasks, args.jobs), strict=True):
        results[videos.title][row] = found
    sections = [f"### {title}\n\n{table(rows)}" for title, rows in results.items()]
    atomic_write(args.work_dir / "results.json", json.dumps(results, indent=1).encode())
    tables = "\n".join(sections)
    print(tables)
    before, after = around_table(args.page)
    atomic_write(args.page, f"{before}\n{tables}\n{after}".encode())


if __name__ == "__main__":
    run_tool(main)
