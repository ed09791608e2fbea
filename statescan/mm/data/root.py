"""Where the data lie: ``data_root`` of a config, for our datasets and OpenMMLab's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import InputError

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
EVALUATORS = ("val_evaluator", "test_evaluator")


def set_data_root(config: Config, written: str | None = None) -> None:
    """Give ``config.data_root``, where there is one, to every dataset and evaluator.

    Our datasets without a ``root`` get it. The configs of MMDetection and MMSegmentation have
    copies of it in datasets (inside of others too) and in the paths of evaluators: there it takes
    the place of what the config file has.

    Args:
        config: Config to change.
        written: ``data_root`` as the config file has it, before any override.
    """
    root = config.get("data_root")
    if not root:
        return
    for loader in filter(config.get, LOADERS):
        for dataset in innermost(config[loader].dataset):
            if "data_root" not in dataset and "pipeline" not in dataset:
                dataset.setdefault("root", root)
    if written and root != written:
        for part in filter(config.get, LOADERS + EVALUATORS):
            config[part] = _moved(config[part], written, root)


def innermost(dataset: dict) -> Iterator[dict]:
    """The datasets that read files, inside of those that repeat, balance, mix or join others."""
    inside = dataset.get("datasets") or [dataset[k] for k in ("dataset",) if k in dataset]
    if not inside:
        yield dataset
    for other in inside:
        yield from innermost(other)


def _moved(value: Any, old: str, new: str) -> Any:
    """``value`` with every path in it that is ``old``, or inside of it, under ``new``."""
    if isinstance(value, str) and f"{value.rstrip('/')}/".startswith(f"{old.rstrip('/')}/"):
        rest = value[len(old.rstrip("/")) :].lstrip("/")
        return f"{new.rstrip('/')}/{rest}" if rest else new
    if isinstance(value, dict):
        return type(value)({key: _moved(inner, old, new) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(inner, old, new) for inner in value)
    return value


def check_data(config: Config, *loaders: str) -> None:
    """Refuse data folders that do not exist; addresses of remote storage are not looked at.

    Raises:
        InputError: Names the first one.
    """
    for loader in filter(config.get, loaders):
        for dataset in innermost(config[loader].dataset):
            folder = dataset.get("data_root") or dataset.get("root")
            if folder and "://" not in folder and not Path(folder).is_dir():
                raise InputError(
                    f"there is no data folder {folder!r}: put the data there or name another by "
                    "--cfg-options data_root=PATH"
                )
