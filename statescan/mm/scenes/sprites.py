"""What scenes are made of: cut-outs with alpha, one folder a category, and photographs behind them.

The cut-outs are Tux Paint's stamps (Debian's tuxpaint-stamps-default, GPL-2) or any folder of PNGs;
the photographs are those inside scikit-image's wheel. Training and validation share neither.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError

PACKAGE = "tuxpaint-stamps-default"
INSTALLED = Path("/usr/share/tuxpaint/stamps")
STAMPS = {  # category: folders of the package that hold photographs of it
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "fruit": ("food/fruit",),
    "flower": ("plants/flowers",),
    "road sign": ("town/roadsigns",),
    "vehicle": ("vehicles", "military/vehicles"),
}
NOT_PHOTOGRAPHS = {"cartoon", "toys", "plastic"}
BACKGROUNDS = {  # of skimage/data; nothing on them is of a category above
    "train": (
        "brick.png",
        "grass.png",
        "coffee.png",
        "coins.png",
        "retina.jpg",
        "hubble_deep_field.jpg",
    ),
    "val": ("gravel.png", "ihc.png", "moon.png", "clock_motion.png"),
}
VAL_SHARE = 0.25  # of a category's cut-outs
OPAQUE = 128  # alpha from which on a pixel belongs to the object

Sprites = Mapping[str, Sequence[Path]]


def stamps(cache: str | Path) -> Path:
    """The folder of Tux Paint's stamps: installed, unpacked in ``cache`` before, or unpacked now.

    Raises:
        InputError: The package is not there and cannot be downloaded.
    """
    cache = Path(cache)
    if INSTALLED.is_dir():
        return INSTALLED
    if not cache.is_dir():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            _unpack(Path(folder)).rename(cache)
    return cache


def _unpack(folder: Path) -> Path:
    """Download the package into ``folder`` and unpack it there, which needs no root."""
    print(f"downloading {PACKAGE}, 161 MB", flush=True)
    try:
        _run("apt-get", "download", PACKAGE, folder=folder)
        (package,) = folder.glob("*.deb")
        _run("dpkg", "-x", package.name, "unpacked", folder=folder)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise InputError(
            f"there are no cut-outs, for apt-get download {PACKAGE} failed ({said}): install that "
            "package or give --sprites FOLDER, with a subfolder of RGBA PNGs for each category"
        ) from error
    return folder / "unpacked" / INSTALLED.relative_to("/")


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def stamp_sprites(root: Path) -> Sprites:
    """The photographs among Tux Paint's stamps under ``root``, by category."""
    return {
        name: [path for folder in folders for path in _pictures(root / folder)]
        for name, folders in STAMPS.items()
    }


def folder_sprites(root: str | Path) -> Sprites:
    """Cut-outs of any folder: each subfolder with PNGs in it is a category.

    Raises:
        InputError: There are none.
    """
    folders = sorted(path for path in Path(root).glob("*") if path.is_dir())
    found = {folder.name: _pictures(folder) for folder in folders}
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise InputError(
            f"--sprites {root} has no cut-outs, expected a subfolder of RGBA PNGs for each category"
        )
    return found


def _pictures(folder: Path) -> list[Path]:
    """PNGs in and below ``folder``, but for drawings and the mirror images of others."""
    return [
        path
        for path in sorted(folder.rglob("*.png"))
        if not NOT_PHOTOGRAPHS & set(path.relative_to(folder).parts)
        and not path.stem.endswith("_mirror")
    ]


def split_sprites(sprites: Sprites, seed: int) -> dict[str, dict[str, list[Path]]]:
    """``{"train": sprites, "val": sprites}``, a quarter of each category's for validation.

    Names that begin alike (lion, lion-2) stay together: they may show the same animal.

    Raises:
        InputError: A category has too few to be split.
    """
    result = {split: {} for split in BACKGROUNDS}
    for number, (category, paths) in enumerate(sprites.items()):
        rng = np.random.RandomState([seed, number])
        val = _held_out(paths, rng)
        if not val:
            raise InputError(
                f"category {category!r} has {len(paths)} cut-outs of different names, expected "
                "enough to hold a quarter of them out"
            )
        result["val"][category] = [path for path in paths if path in val]
        result["train"][category] = [path for path in paths if path not in val]
    return result


def _held_out(paths: Sequence[Path], rng: np.random.RandomState) -> set[Path]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(re.split(r"[-_\d]", path.stem.lower())[0], []).append(path)
    chosen: set[Path] = set()
    for index in rng.permutation(len(groups)):
        group = list(groups.values())[index]
        if len(chosen) + len(group) <= max(1, round(VAL_SHARE * len(paths))) < len(paths):
            chosen.update(group)
    return chosen


def read_sprite(path: Path) -> Image.Image:
    """A cut-out as RGBA, trimmed to its opaque pixels.

    Raises:
        InputError: It cannot be read, or nothing of it is opaque.
    """
    try:
        image = Image.open(path).convert("RGBA")
    except OSError as error:
        raise InputError(f"cut-out {path} cannot be read: {error}") from error
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha >= OPAQUE)).getbbox()
    if box is None:
        raise InputError(f"cut-out {path} has no opaque pixel")
    return image.crop(box)


def read_backgrounds(split: str) -> list[Image.Image]:
    """The photographs of a split as RGB, out of scikit-image's files; nothing is downloaded.

    Raises:
        InputError: scikit-image is not installed.
    """
    package = find_spec("skimage")
    if package is None:
        raise InputError(
            "photographs for scenes come with scikit-image: pip install statescan[demo]"
        )
    folder = Path(package.origin).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in BACKGROUNDS[split]]
