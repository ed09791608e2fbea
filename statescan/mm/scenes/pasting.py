"""Scenes: cut-outs pasted on photographs, with exact masks, boxes and track ids.

A pixel belongs to the last cut-out pasted there that is at least half opaque at it. All of it
follows from seeds, bit for bit with equal versions of NumPy and Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...tracking.scenes import pan, whole_boxes
from .sprites import OPAQUE

MIN_VISIBLE = 0.4  # share of a cut-out's pixels below which it is no object to find
LONGEST = (0.22, 0.5)  # longer side of cut-outs in stills, as a share of the image's shorter side
TILT = 15.0  # degrees, at most, in stills
TRIES = 20  # places tried for one cut-out before a still is left as it is

Palette = Sequence[Sequence[Image.Image]]  # for each category, its cut-outs


class Placed(NamedTuple):
    """A cut-out in its place."""

    category: int  # from 0
    track: int  # number of the target, from 1
    pixels: np.ndarray  # (h, w, 4) uint8 RGBA
    left: int
    top: int

    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) of the whole cut-out, parts outside of the image included."""
        height, width = self.pixels.shape[:2]
        return self.left, self.top, self.left + width, self.top + height


class Thing(NamedTuple):
    """What an image shows of a cut-out."""

    placed: Placed
    mask: np.ndarray  # (H, W) bool, its visible pixels
    visible: float  # their share of all its pixels

    @property
    def counts(self) -> bool:
        """Whether enough of it is visible."""
        return self.visible >= MIN_VISIBLE


class Scene(NamedTuple):
    """An image (H, W, 3) uint8 and the things on it, those in front last."""

    image: np.ndarray
    things: list[Thing]

    def labels(self) -> np.ndarray:
        """(H, W) uint8: 0 is background, categories count from 1."""
        labels = np.zeros(self.image.shape[:2], np.uint8)
        for thing in self.things:
            labels[thing.mask] = thing.placed.category + 1
        return labels


def paste(background: np.ndarray, placed: Sequence[Placed]) -> Scene:
    """Paste cut-outs on a background (H, W, 3), one over the other."""
    image, shape = background.astype(np.uint16), background.shape[:2]
    for cutout in placed:
        inside, part = _overlap(cutout, shape)
        color, alpha = part[..., :3].astype(np.uint16), part[..., 3:].astype(np.uint16)
        image[inside] = (color * alpha + image[inside] * (255 - alpha) + 127) // 255
    return Scene(image.astype(np.uint8), look(placed, shape))


def look(placed: Sequence[Placed], shape: tuple[int, int]) -> list[Thing]:
    """What is visible of cut-outs pasted in this order on an image of ``shape`` (H, W)."""
    owner = np.full(shape, -1)
    for number, cutout in enumerate(placed):
        inside, part = _overlap(cutout, shape)
        owner[inside][part[..., 3] >= OPAQUE] = number
    masks = [owner == number for number in range(len(placed))]
    sizes = [(cutout.pixels[..., 3] >= OPAQUE).sum() for cutout in placed]
    return [
        Thing(cutout, mask, float(mask.sum() / size))
        for cutout, mask, size in zip(placed, masks, sizes, strict=True)
    ]


def _overlap(cutout: Placed, shape: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Where on an image of ``shape`` a cut-out lies, and the part of it that does."""
    x1, y1, x2, y2 = cutout.box()
    rows = slice(max(y1, 0), max(min(y2, shape[0]), 0))
    columns = slice(max(x1, 0), max(min(x2, shape[1]), 0))
    top, left = rows.start - y1, columns.start - x1
    part = cutout.pixels[top : max(rows.stop - y1, 0), left : max(columns.stop - x1, 0)]
    return (rows, columns), part


def still(
    seed: Sequence[int],
    palette: Palette,
    backgrounds: Sequence[Image.Image],
    size: tuple[int, int],
    things: tuple[int, int],
) -> Scene:
    """An image on which every cut-out is visible enough; what finds no place is left out.

    Args:
        seed: numbers that decide everything.
        palette: cut-outs of each category.
        backgrounds: photographs.
        size: (width, height) of the image.
        things: least and greatest number of cut-outs.
    """
    rng = np.random.RandomState(list(seed))
    background = _background(rng, backgrounds, size)
    placed: list[Placed] = []
    for track in range(1, rng.randint(things[0], things[1] + 1) + 1):
        category = rng.randint(len(palette))
        pixels = _vary(rng, palette[category][rng.randint(len(palette[category]))], min(size))
        for _ in range(TRIES):
            left, top = (
                rng.randint(-length // 4, whole - 3 * length // 4)
                for whole, length in zip(size, pixels.shape[1::-1], strict=True)
            )
            tried = [*placed, Placed(category, track, pixels, left, top)]
            if all(thing.counts for thing in look(tried, (size[1], size[0]))):
                placed = tried
                break
    return paste(background, placed)


def _vary(rng: np.random.RandomState, sprite: Image.Image, side: int) -> np.ndarray:
    """A cut-out at random size, tilt, mirroring and brightness, (h, w, 4)."""
    share = side * rng.uniform(*LONGEST) / max(sprite.size)
    tilt, mirrored, light = rng.uniform(-TILT, TILT), rng.rand() < 0.5, rng.uniform(0.75, 1.15)
    image = sprite.convert("RGBa")  # premultiplied, so that hidden colours do not bleed
    image = image.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    pixels = resize(image, [round(share * length) for length in image.size])
    pixels[..., :3] = (pixels[..., :3] * light).clip(0, 255)
    pixels, _, _ = trim(pixels)
    return pixels[:, ::-1] if mirrored else pixels


def resize(sprite: Image.Image, size: Sequence[int]) -> np.ndarray:
    """A cut-out (RGBa, premultiplied) at (width, height), as (h, w, 4) RGBA."""
    width, height = (max(int(length), 2) for length in size)
    small = sprite.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(small.convert("RGBA"))


def trim(pixels: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The part of RGBA pixels (h, w, 4) that spans the opaque ones, and its left and top.

    Where none is opaque, as in very thin cut-outs, all become so that are not quite transparent.
    """
    opaque = pixels[..., 3] >= OPAQUE
    if not opaque.any():
        pixels[..., 3] = 255
        opaque = pixels[..., 3] >= OPAQUE
    rows, columns = (np.flatnonzero(opaque.any(axis)) for axis in (1, 0))
    part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return part, int(columns[0]), int(rows[0])


def _background(
    rng: np.random.RandomState, photographs: Sequence[Image.Image], size: tuple[int, int]
) -> np.ndarray:
    """A tinted window of a photograph, (height, width, 3)."""
    photograph = photographs[rng.randint(len(photographs))]
    share = rng.uniform(0.4, 1) * min(p / s for p, s in zip(photograph.size, size, strict=True))
    width, height = (share * s for s in size)
    left, top = (
        rng.uniform(0, whole - part)
        for whole, part in zip(photograph.size, (width, height), strict=True)
    )
    box = (left, top, left + width, top + height)
    pixels = np.array(photograph.resize(size, Image.Resampling.BICUBIC, box=box))
    tinted = pixels * rng.uniform(0.6, 1, 3)
    return tinted.astype(np.uint8)[:, :: rng.choice((-1, 1))]


def video(
    seed: Sequence[int],
    palette: Palette,
    backgrounds: Sequence[Image.Image],
    size: tuple[int, int],
    *,
    frames: int,
    targets: int,
    camera: float = 0.0,
) -> Iterator[Scene]:
    """Frames of targets that move as in ``tracking.scenes``, each a cut-out of its own.

    Args:
        seed: numbers that decide everything.
        palette: cut-outs of each category.
        backgrounds: photographs.
        size: (width, height) of the image.
        frames: number of frames.
        targets: number of targets; those with higher numbers pass in front.
        camera: share of the image by which the camera swings.
    """
    rng = np.random.RandomState(list(seed))
    motion = rng.randint(2**31)
    categories = rng.randint(len(palette), size=targets)
    chosen = [palette[category][rng.randint(len(palette[category]))] for category in categories]
    aspects = [sprite.width / sprite.height for sprite in chosen]
    boxes = whole_boxes(motion, frames, targets, size, aspects=aspects, camera=camera)
    border = [round(camera * s) for s in size]
    around = (size[0] + 2 * border[0], size[1] + 2 * border[1])
    wide = _background(rng, backgrounds, around)
    sprites = [sprite.convert("RGBa") for sprite in chosen]
    for corners, shift in zip(boxes, pan(motion, frames, size, camera), strict=True):
        left, top = (b + round(float(s)) for b, s in zip(border, shift, strict=True))
        placed = [
            _place(category, track, sprite, box)
            for track, (category, sprite, box) in enumerate(
                zip(categories.tolist(), sprites, corners.tolist(), strict=True), start=1
            )
        ]
        yield paste(wide[top : top + size[1], left : left + size[0]], placed)


def _place(category: int, track: int, sprite: Image.Image, box: Sequence[float]) -> Placed:
    """A cut-out (RGBa) that fills a box (x1, y1, x2, y2), rounded to pixels."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    pixels, left, top = trim(resize(sprite, (x2 - x1, y2 - y1)))
    return Placed(category, track, pixels, x1 + left, y1 + top)
