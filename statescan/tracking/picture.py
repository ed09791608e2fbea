"""A picture of tracks over time: when each target was seen, and the way it went."""

import io
from collections.abc import Mapping

import numpy as np

from .boxes import to_centers
from .mot_files import Boxes

INK, COLORS = "#1f2933", "tab20"


def sightings(frames: Mapping[int, Boxes]) -> dict[int, np.ndarray]:
    """For every id, by first frame, rows (frame, cx, cy) of where it was seen."""
    rows: dict[int, list[tuple[float, ...]]] = {}
    for number in sorted(frames):
        found = frames[number]
        for i, center in zip(found.ids, to_centers(found.boxes)[:, :2], strict=True):
            rows.setdefault(int(i), []).append((number, *center))
    return {i: np.array(seen) for i, seen in rows.items()}


def draw(frames: Mapping[int, Boxes], size: tuple[int, int], title: str) -> bytes:
    """Draw tracks; returns the bytes of a PNG of 1400x600 pixels.

    Args:
        frames: Tracks by frame number.
        size: (width, height) of the video in pixels.
        title: What stands above.
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    tracks, palette = sightings(frames), colormaps[COLORS].colors
    with rc_context({"font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(14, 6), dpi=100, layout="constrained")
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        times, ways = figure.subplots(1, 2, width_ratios=(1.3, 1))
        for row, (i, seen) in enumerate(tracks.items()):
            color = palette[i % len(palette)]
            times.scatter(seen[:, 0], np.full(len(seen), row), color=color, marker="|", s=18)
            ways.plot(seen[:, 1], seen[:, 2], color=color, lw=1.2)
        _label(times, ways, tracks, size)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _label(times, ways, tracks: dict, size: tuple[int, int]) -> None:
    times.set_title("Frames in which each target was seen", loc="left")
    times.set(xlabel="frame", ylabel="target")
    if len(tracks) <= 40:  # more names than that would cover each other
        times.set_yticks(range(len(tracks)), list(tracks))
    ways.set_title("Ways of their centres", loc="left")
    ways.set(xlabel="x, pixels", ylabel="y, pixels", xlim=(0, size[0]), ylim=(size[1], 0))
    ways.set_aspect("equal")
