#!/usr/bin/env python
"""Train a detector or a segmenter from scratch on composed scenes and show how well it does.

``tools/demo_scenes.py detect`` or ``segment`` composes the scenes, trains on vmamba_nano and
evaluates on cut-outs and photographs that training has not seen, beside the untrained model and a
constant answer. Writes checkpoint, metrics.json and demo.png. Killed at any moment, the same
command goes on. To start again, delete the folder.
"""

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config, DictAction

from statescan.mm import InputError, evaluate, load_config, train
from statescan.mm.checkpoints.files import atomic_write, latest_checkpoint
from statescan.mm.reports.dense_baselines import (
    constant_boxes_map,
    constant_class,
    evaluate_untrained,
)
from statescan.mm.reports.scene_pictures import Rows, draw_boxes, draw_maps
from statescan.mm.reports.trainings import draw_report
from statescan.mm.scenes.files import Plan, compose
from statescan.mm.scenes.sprites import Sprites, folder_sprites, stamp_sprites, stamps
from statescan.mm.training.launch import run_tool

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CACHE, SCENES = "work_dirs/stamps", "work_dirs/scenes"
DETECT = "detection/from_scratch/faster_rcnn_vmamba_nano_scenes.py"
SEGMENT = "segmentation/from_scratch/upernet_vmamba_nano_scenes.py"
PLAN = Plan(size=(128, 128), train=800, val=100)


class Task(NamedTuple):
    """What differs between the two demos."""

    config: str
    metric: str  # by its name in evaluations
    figure: str  # by its name for people
    heads: tuple[str, ...]  # keys of the config under which num_classes stands
    background: tuple[str, ...]  # classes before the categories
    constant: str
    measure_constant: Callable[[Config], float]
    draw: Callable[[Path, Path], Rows]


def measure_mean_boxes(config: Config) -> float:
    """Box mAP of the mean boxes of training."""
    folder = Path(config.data_root, "annotations")
    return constant_boxes_map(folder / "train.json", folder / "val.json")


def measure_commonest(config: Config) -> float:
    """The mIoU of the commonest class of training."""
    return constant_class(config)["mIoU"]


TASKS = {
    "detect": Task(
        config=DETECT,
        metric="coco/bbox_mAP",
        figure="box mAP",
        heads=("model.roi_head.bbox_head",),
        background=(),
        constant="mean box of each category",
        measure_constant=measure_mean_boxes,
        draw=draw_boxes,
    ),
    "segment": Task(
        config=SEGMENT,
        metric="mIoU",
        figure="mIoU",
        heads=("model.decode_head", "model.auxiliary_head"),
        background=("background",),
        constant="commonest class",
        measure_constant=measure_commonest,
        draw=draw_maps,
    ),
}


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Train and evaluate on composed scenes.")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seed", type=int, default=0, help="of the training, not of the scenes")
    parser.add_argument("--work-dir", help="default work_dirs/demo_TASK")
    parser.add_argument("--scenes", default=SCENES, help=f"composed there (default {SCENES})")
    parser.add_argument("--sprites", metavar="FOLDER", help="RGBA PNGs, a subfolder a category")
    parser.add_argument("--train", type=int, default=PLAN.train, help="images")
    parser.add_argument("--val", type=int, default=PLAN.val, help="images")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def options_of(task: Task, args: argparse.Namespace, sprites: Sprites) -> dict:
    """Overrides of the task's config: data, seed and the categories that there are."""
    classes = (*task.background, *sprites)
    options = {"data_root": args.scenes, "randomness.seed": args.seed}
    for split in ("train", "val", "test"):
        options[f"{split}_dataloader.dataset.metainfo.classes"] = classes
    for head in task.heads:
        options[f"{head}.num_classes"] = len(classes)
    return options | (args.cfg_options or {})


def read_results(work_dir: Path, asked: dict) -> dict | None:
    """Results of a finished run in ``work_dir``, or None.

    Raises:
        InputError: They are of something else than ``asked``.
    """
    path = work_dir / "metrics.json"
    if not path.exists():
        return None
    results = json.loads(path.read_text())
    for name, value in asked.items():
        if results.get(name) != value:
            raise InputError(
                f"{path} is of {name} {results.get(name)}, not {value}: "
                f"delete {work_dir} or name another"
            )
    return results


def run(task: Task, config: Config, asked: dict) -> dict:
    """Measure what has to be beaten, train, evaluate, draw; return and write the results."""
    work_dir, data = Path(config.work_dir), Path(config.data_root)
    floors = {
        task.constant: task.measure_constant(config),
        "untrained": evaluate_untrained(config, work_dir / "untrained.pth")[task.metric],
    }
    runner = train(deepcopy(config), resume="auto")
    predictions = work_dir / "predictions"
    metrics = evaluate(config, latest_checkpoint(work_dir), predictions).metrics
    results = asked | {
        "model": f"{config.model.type} on {config.model.backbone.name}",
        "parameters": sum(parameter.numel() for parameter in runner.model.parameters()),
        "epochs": runner.max_epochs,
        "metrics": metrics,
        "floors": floors,
        "history": runner.message_hub.get_info("history"),
    }
    atomic_write(work_dir / "demo.png", picture(task, results, data, predictions))
    atomic_write(work_dir / "metrics.json", (json.dumps(results, indent=2) + "\n").encode())
    return results


def picture(task: Task, results: dict, data: Path, predictions: Path) -> bytes:
    """PNG of the run: curves, and validation images with truth and prediction."""
    figure, count = results["metrics"][task.metric], results["val"]
    title = f"{results['model']}: {task.figure} {figure:.3f} on {count} scenes of unseen things"
    histories = {results["model"]: [results["history"]]}
    rows = task.draw(data, predictions)
    return draw_report(title, task.metric, histories, results["floors"], rows)


def table(task: Task, results: dict) -> str:
    """The model beside what it has to beat."""
    rows = {**results["floors"], results["model"]: results["metrics"][task.metric]}
    width = max(map(len, rows))
    lines = [f"{name:{width}}  {value:8.3f}" for name, value in rows.items()]
    return "\n".join([f"{'':{width}}  {task.figure:>8}", *lines])


def main() -> None:
    """Run a demo, or show the results of one that is finished."""
    args = parse_args()
    task, started = TASKS[args.task], time.monotonic()
    work_dir = args.work_dir or f"work_dirs/demo_{args.task}"
    asked = {"seed": args.seed, "train": args.train, "val": args.val}
    results = read_results(Path(work_dir), asked)
    if results is None:
        sprites = folder_sprites(args.sprites) if args.sprites else stamp_sprites(stamps(CACHE))
        compose(args.scenes, sprites, PLAN._replace(train=args.train, val=args.val))
        config = load_config(CONFIGS / task.config, work_dir, options_of(task, args, sprites))
        results = run(task, config, asked)
        print(f"finished in {(time.monotonic() - started) / 60:.1f} minutes")
    else:
        print(f"already finished; delete {work_dir} to start again")
    print(table(task, results))
    print(f"picture: {work_dir}/demo.png")


if __name__ == "__main__":
    run_tool(main)
