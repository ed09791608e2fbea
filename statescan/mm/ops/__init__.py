"""mmcv's compiled operators without a compiler: ``mmcv._ext`` on top of torchvision.ops.

Importing this package is enough. Python asks `ExtensionFinder` only after every other finder has
failed, so a real ``mmcv._ext`` always wins, and without mmcv nobody asks at all.
"""

from .finder import ExtensionFinder, install

__all__ = ["ExtensionFinder", "install"]

install()
