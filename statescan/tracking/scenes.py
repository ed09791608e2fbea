"""Boxes that move as real targets do, not along straight lines: turns, stops, crossings.

Ground truth for trackers, at once and without images; tools/make_scenes.py pastes pictures into it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .boxes import to_centers, to_corners
from .mot_files import Boxes

HEIGHTS = (0.10, 0.25)  # of targets, as shares of the image's height
SPEEDS = (0.003, 0.016)  # image heights a frame
PHASES = (12, 45)  # frames that an intention lasts
ACCELERATION = 0.12  # share of the top speed gained or lost in a frame
TURN_RATES = (0.03, 0.25)  # radians a frame
MARGIN = 0.15  # how far outside of the image targets may walk, as a share of its size
INTENTIONS = ("cruise", "turn", "stop", "cross")
CHANCES = (0.2, 0.4, 0.15, 0.25)


class Paths(NamedTuple):
    """Where n targets are in T frames."""

    centers: np.ndarray  # (T, n, 2) pixels
    heights: np.ndarray  # (T, n) pixels


class Walkers:
    """n targets, each with an intention that lasts some frames: a heading and a speed to reach.

    Args:
        rng: source of all chance.
        targets: their number.
        size: (width, height) of the image in pixels.
    """

    def __init__(self, rng: np.random.RandomState, targets: int, size: tuple[int, int]):
        self.rng, self.size = rng, np.array(size, float)
        self.top = np.exp(rng.uniform(*np.log(SPEEDS), targets)) * size[1]
        self.position = rng.uniform(0, 1, (targets, 2)) * self.size
        self.heading = self.wanted_heading = rng.uniform(-np.pi, np.pi, targets)
        self.speed = self.wanted_speed = self.top.copy()
        self.rate = np.zeros(targets)
        self.left = rng.randint(1, PHASES[1], targets)  # frames of the intention to come

    def step(self) -> np.ndarray:
        """Go on by a frame; returns the (n, 2) positions."""
        for i in np.flatnonzero(self.left == 0):
            self._intend(i)
        self.left = self.left - 1
        turn = np.angle(np.exp(1j * (self.wanted_heading - self.heading)))
        self.heading = self.heading + np.clip(turn, -self.rate, self.rate)
        gain = ACCELERATION * self.top
        self.speed = self.speed + np.clip(self.wanted_speed - self.speed, -gain, gain)
        direction = np.stack([np.cos(self.heading), np.sin(self.heading)], axis=1)
        self.position = self.position + self.speed[:, None] * direction
        outside = (self.position < -MARGIN * self.size) | (self.position > (1 + MARGIN) * self.size)
        for i in np.flatnonzero(outside.any(axis=1) & (self.rate < TURN_RATES[1])):
            self._come_back(i)
        return self.position

    def _intend(self, i: int) -> None:
        """Draw what target i does next."""
        intention = self.rng.choice(INTENTIONS, p=CHANCES)
        self.left[i] = self.rng.randint(*PHASES)
        self.rate[i] = self.rng.uniform(*TURN_RATES)
        self.wanted_speed[i] = self.top[i] * self.rng.uniform(0.4, 1)
        self.wanted_heading[i] = self.heading[i]
        if intention == "turn":
            self.wanted_heading[i] += self.rng.uniform(np.pi / 4, np.pi) * self.rng.choice((-1, 1))
        elif intention == "stop":
            self.wanted_speed[i] = 0
        elif intention == "cross":
            self._head_for(i, self.position[self.rng.randint(len(self.position))])

    def _come_back(self, i: int) -> None:
        """Turn target i, far outside, round to the middle of the image."""
        self.left[i], self.rate[i], self.wanted_speed[i] = PHASES[0], TURN_RATES[1], self.top[i]
        self._head_for(i, self.size * self.rng.uniform(0.25, 0.75, 2))

    def _head_for(self, i: int, point: np.ndarray) -> None:
        x, y = point - self.position[i]
        self.wanted_heading[i] = np.arctan2(y, x)


def walk(seed: int, frames: int, targets: int, size: tuple[int, int]) -> Paths:
    """Paths of targets that cruise, turn, stop and cross each other's way, and their heights.

    Targets may walk a little way out of the image and come back. Heights swell and shrink slowly,
    as if targets came nearer and went away.

    Args:
        seed: equal seeds give equal paths.
        frames: T.
        targets: n.
        size: (width, height) of the image in pixels.

    Raises:
        ValueError: a number is below 1.
    """
    for name, value in (("frames", frames), ("targets", targets), ("size", min(size))):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    rng = np.random.RandomState(seed)  # its stream never changes; that of default_rng may
    height = np.exp(rng.uniform(*np.log(HEIGHTS), targets)) * size[1]
    period, phase = rng.uniform(80, 240, targets), rng.uniform(0, 2 * np.pi, targets)
    swell = np.sin(2 * np.pi * np.arange(frames)[:, None] / period + phase)
    walkers = Walkers(rng, targets, size)
    centers = np.stack([walkers.step() for _ in range(frames)])
    return Paths(centers, height * (1 + 0.2 * swell))


def pan(seed: int, frames: int, size: tuple[int, int], share: float) -> np.ndarray:
    """(T, 2) pixels by which a camera has moved: slow swings within ``share`` of the image."""
    rng = np.random.RandomState([seed, 1])
    period, phase = rng.uniform(60, 180, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))
    swings = np.sin(2 * np.pi * np.arange(frames)[:, None, None] / period + phase)
    return swings.mean(axis=1) * share * np.array(size)


def whole_boxes(
    seed: int,
    frames: int,
    targets: int,
    size: tuple[int, int],
    *,
    aspects: Sequence[float] | None = None,
    camera: float = 0.0,
) -> np.ndarray:
    """(T, n, 4) corners of all targets, those outside of the image too.

    Args:
        seed: equal seeds give equal boxes.
        frames: T.
        targets: n.
        size: (width, height) of the image in pixels.
        aspects: width by height of each target; None draws them, most of them upright.
        camera: the share of the image by which the camera swings.

    Raises:
        ValueError: a number is below 1, or there is not an aspect for each target.
    """
    centers, heights = walk(seed, frames, targets, size)
    if aspects is None:
        aspects = np.random.RandomState([seed, 2]).uniform(0.35, 1.1, targets)
    if len(aspects) != targets:
        raise ValueError(f"aspects has length {len(aspects)}, expected {targets}, as targets")
    centers = centers - pan(seed, frames, size, camera)[:, None]
    sizes = np.stack([heights * np.asarray(aspects), heights], axis=-1)
    boxes = np.concatenate([centers, sizes], axis=-1)
    return to_corners(boxes.reshape(-1, 4)).reshape(boxes.shape)


def moving_boxes(
    seed: int,
    frames: int,
    targets: int,
    size: tuple[int, int],
    *,
    aspects: Sequence[float] | None = None,
    camera: float = 0.0,
) -> dict[int, Boxes]:
    """Boxes with ids in every frame, as `mot_files.read` gives them; arguments of `whole_boxes`.

    Returns:
        From the frame's number, from 1, to ids from 1 and whole boxes, of which a part may be
        outside; targets whose centre is outside are left out.
    """
    boxes = whole_boxes(seed, frames, targets, size, aspects=aspects, camera=camera)
    return {t + 1: _inside(boxes[t], size) for t in range(frames)}


def _inside(corners: np.ndarray, size: tuple[int, int]) -> Boxes:
    """Of boxes (n, 4) those whose centre is in the image."""
    centers = to_centers(corners)[:, :2]
    shown = ((centers >= 0) & (centers < size)).all(axis=1)
    return Boxes(np.flatnonzero(shown) + 1, corners[shown].round(2), np.ones(shown.sum()))
