"""What was predicted, in files that can be checked and analysed afterwards."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process

from ..errors import InputError

# Metrics that can write, and the argument that says where.
WRITERS = {
    "CocoMetric": "outfile_prefix",
    **dict.fromkeys(("IoUMetric", "ClasswiseIoU", "ForegroundMetric"), "output_dir"),
    "ClassificationMetric": "predictions",
    "MotionMetric": "predictions",
}


@contextmanager
def keep_predictions(config: Config, prefix: str | Path | None) -> Iterator[None]:
    """Have the test evaluators of ``config`` write what is predicted inside of the context.

    What stands there from before is replaced, and only once all is written.

    Args:
        config: Config to change.
        prefix: For a detector the start of COCO's result files, ``PREFIX.bbox.json`` and
            ``PREFIX.segm.json``; for a segmenter a folder of PNG label maps, named as the images;
            for classifiers and motion predictors the start of ``PREFIX.npz``. None for no files.

    Raises:
        InputError: None of the metrics can write, or ``prefix`` is a folder of other things.
    """
    if prefix is None:
        yield
        return
    prefix = Path(prefix)
    if not prefix.name or _holds_others(prefix):
        raise InputError(
            f"predictions is {str(prefix)!r}, a folder of other things: name a new one, or the "
            "start of a file's name"
        )
    parts = prefix.with_name(f"{prefix.name}.part")
    shutil.rmtree(parts, ignore_errors=True)
    given = copy.deepcopy(config.test_evaluator)
    _direct(config, parts / prefix.name)
    try:
        yield
        barrier()
        if is_main_process():
            for path in parts.iterdir():
                _replace(path, prefix.parent / path.name)
    finally:
        config.test_evaluator = given
        if is_main_process():
            shutil.rmtree(parts, ignore_errors=True)


def _direct(config: Config, target: Path) -> None:
    """Tell the evaluators where to write."""
    evaluators = config.test_evaluator
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
    able = [one for one in evaluators if one.type.split(".")[-1] in WRITERS]
    if not able:
        types = ", ".join(one.type for one in evaluators)
        raise InputError(f"{types} cannot write predictions, expected {' or '.join(WRITERS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    for one in able:
        argument = WRITERS[one.type.split(".")[-1]]
        one[argument] = str(target)
        if argument == "output_dir":  # every process writes into it
            target.mkdir(exist_ok=True)


def _holds_others(folder: Path) -> bool:
    """Whether this is a folder with anything but label maps."""
    return folder.is_dir() and any(path.suffix != ".png" for path in folder.iterdir())


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)
