"""Training, evaluation and OpenMMLab's registries: the only room that imports MMEngine.

``custom_imports = dict(imports=["statescan.mm"])`` in a config registers everything here.
"""

import warnings

try:
    with warnings.catch_warnings():
        # MMEngine imports torch.distributed.optim, which still decorates with torch.jit.
        warnings.filterwarnings("ignore", "`torch.jit.", DeprecationWarning)
        import mmengine.runner  # noqa: F401
        from mmengine.config.utils import MODULE2PACKAGE
except ImportError as error:
    raise ImportError(
        f"statescan.mm needs MMEngine, but {error}: pip install statescan[train]"
    ) from error
else:
    from . import ops  # before anything imports mmcv.ops

from . import (
    backbone,
    classifier,
    data_checks,
    datasets,
    hooks,
    loading,
    loops,
    metrics,
    motion,
    neck,
    optim,
    saving,
    trackers,
)
from .errors import InputError
from .launch import evaluate, find_config, load_config, train
from .runner import StateScanRunner

# MMEngine finds "mmseg::..." by the distribution's name; the module's serves every distribution.
MODULE2PACKAGE["mmseg"] = "mmseg"

__all__ = [
    "InputError",
    "StateScanRunner",
    "backbone",
    "classifier",
    "data_checks",
    "datasets",
    "evaluate",
    "find_config",
    "hooks",
    "load_config",
    "loading",
    "loops",
    "metrics",
    "motion",
    "neck",
    "ops",
    "optim",
    "saving",
    "trackers",
    "train",
]
