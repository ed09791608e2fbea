"""Training, evaluation and OpenMMLab's registries: the only room that imports MMEngine.

``custom_imports = dict(imports=["statescan.mm"])`` in a config registers everything here.
"""

import warnings

try:
    with warnings.catch_warnings():
        # MMEngine imports torch.distributed.optim, which still decorates with torch.jit.
        warnings.filterwarnings("ignore", "`torch.jit.", DeprecationWarning)
        import mmengine.runner  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"statescan.mm needs MMEngine, but {error}: pip install statescan[train]"
    ) from error

from . import classifier, datasets, hooks, metrics, motion, optim, trackers
from .errors import InputError
from .launch import evaluate, find_config, load_config, train
from .runner import StateScanRunner

__all__ = [
    "InputError",
    "StateScanRunner",
    "classifier",
    "datasets",
    "evaluate",
    "find_config",
    "hooks",
    "load_config",
    "metrics",
    "motion",
    "optim",
    "trackers",
    "train",
]
