"""From the name of a config to a trained and evaluated model: what the tools do."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from torch import Tensor

from ...errors import nearest
from ..checkpoints.files import holds_classifier, latest_checkpoint
from ..data.root import check_data, set_data_root
from ..errors import InputError
from .metrics import ClassificationMetric
from .predictions import keep_predictions
from .runner import StateScanRunner


def find_config(name: str, root: str | Path) -> Path:
    """The config file at path ``name``, or the one called ``name`` anywhere under ``root``.

    Raises:
        InputError: There is none; names the nearest one.
    """
    if Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path in Path(root).rglob("*.py") if "_base_" not in path.parts}
    wanted = Path(name).stem
    if wanted not in known or Path(name).parent != Path():
        raise InputError(f"there is no config {name!r}: {nearest(wanted, known)}")
    return known[wanted]


def load_config(
    path: str | Path, work_dir: str | None = None, options: dict | None = None
) -> Config:
    """Read a config file and settle where its data lie and where its run is kept.

    Args:
        path: Config file.
        work_dir: Folder of checkpoints and logs; ``work_dirs/<name of the config>`` unless given
            here or in the config.
        options: Overrides by dotted key, as from ``--cfg-options``.
    """
    config = Config.fromfile(path)
    written = config.get("data_root")
    config.merge_from_dict(options or {})
    set_data_root(config, written)
    config.work_dir = work_dir or config.get("work_dir") or f"work_dirs/{Path(path).stem}"
    return config


def detect_launcher() -> str:
    """``"pytorch"`` under torchrun, else ``"none"``."""
    return "pytorch" if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys() else "none"


def use_amp(config: Config) -> None:
    """Train ``config`` under bf16 autocast."""
    config.optim_wrapper.type = "Bf16OptimWrapper"
    for argument in ("dtype", "loss_scale"):  # of MMEngine's AmpOptimWrapper
        config.optim_wrapper.pop(argument, None)


def set_resume(config: Config, resume: str | None) -> Path | None:
    """Make ``config`` go on from a checkpoint, which is returned.

    Args:
        config: Config to change.
        resume: ``"auto"`` for the latest in its work folder, if there is one; a path; or None.
    """
    if resume is None:
        return None
    path = latest_checkpoint(config.work_dir) if resume == "auto" else Path(resume)
    if path is not None:
        config.resume, config.load_from = True, str(path)
    return path


def build_runner(config: Config) -> StateScanRunner:
    """A runner with names of its own: MMEngine shares logs and state between equal names."""
    config.experiment_name = f"{Path(config.filename).stem}_{uuid4().hex[:8]}"
    if config.get("visualizer"):  # OpenMMLab's configs name it, all of them alike
        config.visualizer.pop("name", None)
    return StateScanRunner.from_cfg(config)


def describe(runner: StateScanRunner, config: Config) -> str:
    """One line on what is trained, where, and where it is kept."""
    millions = sum(p.numel() for p in runner.model.parameters()) / 1e6
    device = next(runner.model.parameters()).device.type
    processes = "" if runner.world_size == 1 else f" in {runner.world_size} processes"
    backbone = config.model.get("backbone", {})
    name = backbone.get("name") or backbone.get("type") or config.model.type
    name = name if config.model.type == "ImageClassifier" else f"{config.model.type} on {name}"
    return f"{name}, {millions:.2f} M parameters, on {device}{processes}; logs in {runner.log_dir}"


def train(config: Config, resume: str | None = None) -> StateScanRunner:
    """Train as ``config`` says and return the runner.

    Args:
        config: From :func:`load_config`.
        resume: As for :func:`set_resume`.

    Raises:
        InputError: Data, model or checkpoint are missing or wrong.
    """
    path = set_resume(config, resume)
    check_data(config, "train_dataloader", "val_dataloader")
    config.train_dataloader.persistent_workers = False  # workers get a seed each epoch
    runner = build_runner(config)
    if is_main_process():
        print(describe(runner, config))
        print(f"going on from {path}" if path else "starting from scratch", flush=True)
    runner.train()
    return runner


class Evaluation(NamedTuple):
    """Metrics by name; of a classifier also what is behind them.

    ``scores`` are (images, classes), ``labels`` (images,).
    """

    metrics: dict[str, float]
    scores: Tensor | None = None
    labels: Tensor | None = None


def evaluate(
    config: Config, checkpoint: str | Path, predictions: str | Path | None = None
) -> Evaluation:
    """Evaluate ``checkpoint`` on the test data of ``config``.

    Args:
        config: From :func:`load_config`, of any task.
        checkpoint: Written by ``tools/train.py``; or the authors' whole detector or segmenter; or
            for a classifier weights of the backbone alone, the authors' or converted ones.
        predictions: Write what was predicted there, see :func:`keep_predictions`.

    Raises:
        InputError: Data or checkpoint are missing or wrong.
    """
    config.resume, config.visualizer = False, None
    config.load_from = str(checkpoint)
    if config.model.type == "ImageClassifier" and not holds_classifier(checkpoint):
        # a backbone's weights, the authors' or converted: through the model's own filter
        config.load_from, config.model.backbone.checkpoint_path = None, str(checkpoint)
    check_data(config, "test_dataloader")
    with keep_predictions(config, predictions):
        runner = build_runner(config)
        metrics = {name: float(value) for name, value in runner.test().items()}
    metric = runner.test_evaluator.metrics[0]
    if not isinstance(metric, ClassificationMetric):
        return Evaluation(metrics)
    return Evaluation(metrics, metric.scores, metric.labels)


def add_arguments(parser: ArgumentParser) -> None:
    """The command line that tools/train.py and tools/test.py share."""
    parser.add_argument("config", help="config file, or the name of one under configs/")
    parser.add_argument("--work-dir", help="checkpoints and logs; default work_dirs/CONFIG")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override config values, such as data_root=PATH or train_cfg.max_epochs=10",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default=detect_launcher(),
        help="default: pytorch under torchrun, else none",
    )


def read_config(args: Namespace, root: str | Path) -> Config:
    """The config that :func:`add_arguments`' command line means, found under ``root``."""
    config = load_config(find_config(args.config, root), args.work_dir, args.cfg_options)
    config.launcher = args.launcher
    return config


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's ``main``: bad input and Ctrl-C end it with a sentence, not a traceback."""
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}" if os.environ.get("RANK", "0") == "0" else 1)
    except KeyboardInterrupt:
        sys.exit("stopped; resuming goes on from the last checkpoint")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
