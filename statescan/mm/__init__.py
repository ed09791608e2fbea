"""Training, evaluation and OpenMMLab's registries: the only room that imports MMEngine.

``custom_imports = dict(imports=["statescan.mm"])`` in a config registers what needs MMEngine alone.
What needs MMDetection or MMSegmentation besides is imported by name: `models.mamba_yolo`,
`models.unet`, `data.masks`, `data.camvid`.

A folder imports itself and those before it, and `errors`:

    ops <- checkpoints <- models <- data <- scenes <- training <- inference <- reports
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
    from . import ops  # noqa: F401  before anything imports mmcv.ops

# What is imported here for nothing else is registered by that.
from .data import checks, classification, loading  # noqa: F401
from .errors import InputError
from .models import backbone, classifier, neck, trackers  # noqa: F401
from .training import hooks, loops, metrics, motion, optim, saving  # noqa: F401
from .training.launch import evaluate, find_config, load_config, train
from .training.runner import StateScanRunner

# MMEngine finds "mmseg::..." by the distribution's name; the module's serves every distribution.
MODULE2PACKAGE["mmseg"] = "mmseg"

__all__ = ["InputError", "StateScanRunner", "evaluate", "find_config", "load_config", "train"]
