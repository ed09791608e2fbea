"""Small cut-outs in two categories, for tests of tools that compose scenes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def write_sprites(folder: Path) -> Path:
    """Red discs and blue bars of several shades and sizes, each with its own name."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:40, :40] / 20 - 0.975
    shapes = {"disc": x**2 + y**2 <= 1, "bar": abs(y) < 0.4}
    for category, shape in shapes.items():
        (folder / category).mkdir(parents=True)
        for name in "abcdef":
            pixels = np.zeros((40, 40, 4), np.uint8)
            pixels[..., :3] = rng.randint(0, 90, 3)
            pixels[..., 0 if category == "disc" else 2] = rng.randint(180, 256)
            pixels[..., 3] = 255 * shape
            Image.fromarray(pixels).save(folder / category / f"{name}.png")
    return folder


def load_tool(name: str) -> ModuleType:
    """The module of ``tools/NAME.py``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
