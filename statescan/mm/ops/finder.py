"""Puts `extension.py` in the place of a missing ``mmcv._ext``."""

import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

# They try to import mmcv.ops, and go on without where that fails.
REMEMBER_A_FAILURE = ["mmcv.cnn.bricks.transformer", "mmdet.structures.mask.structures"]


class ExtensionFinder(MetaPathFinder):
    """The last finder on ``sys.meta_path``: it knows ``mmcv._ext`` and nothing else."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        """The stand-in where `fullname` is mmcv's extension, else None."""
        if fullname != "mmcv._ext":
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name("extension.py"))


def install() -> None:
    """Appends an `ExtensionFinder` once; warns where mmcv was already found without operators."""
    if any(isinstance(finder, ExtensionFinder) for finder in sys.meta_path):
        return
    sys.meta_path.append(ExtensionFinder())
    for name in REMEMBER_A_FAILURE:
        if name in sys.modules and "mmcv.ops" not in sys.modules:
            warnings.warn(
                f"{name} was imported before statescan.mm, when mmcv had no operators, and goes on"
                " without them: import statescan.mm first.",
                stacklevel=2,
            )
            return
