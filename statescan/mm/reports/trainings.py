"""A picture of trainings of detectors or segmenters: their curves, and truth beside prediction."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .picture import INK, LOSS, METRIC, MUTED, WRONG

LINES = (METRIC, WRONG, "#3b8f4b", "#8a5aa8")  # a colour a training
COLUMN_INCHES, CURVE_INCHES, DPI = 2.6, 3.2, 80


def draw_report(
    title: str,
    metric: str,
    histories: Mapping[str, Sequence[Sequence[dict]]],
    floors: Mapping[str, float],
    rows: Mapping[str, Sequence[np.ndarray]],
) -> bytes:
    """Draw curves of trainings over a table of images.

    Args:
        title: Over everything.
        metric: Key of the histories that is drawn; the loss is drawn beside it.
        histories: By training, for each of its seeds the entries with ``epoch``, ``loss`` and,
            where evaluated, ``metric``. Several seeds are thin lines around their mean.
        floors: Values of the metric to compare with, by name.
        rows: Images (H, W, 3) uint8, BGR, by the caption of their row, as many in each row.

    Returns:
        Bytes of a PNG of 256 colours.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    heights = [CURVE_INCHES, *(_row_inches(images) for images in rows.values())]
    columns = max(len(images) for images in rows.values())
    with rc_context({"font.size": 9, "text.color": INK, "axes.edgecolor": MUTED}):
        size = (COLUMN_INCHES * columns, sum(heights) + 0.5)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        _draw_curves(parts[0], metric, histories, floors)
        for part, (caption, images) in zip(parts[1:], rows.items(), strict=True):
            _draw_row(part, caption, images)
        buffer = io.BytesIO()
        figure.savefig(buffer)
    return _few_colors(buffer)


def _row_inches(images: Sequence[np.ndarray]) -> float:
    """Height of a row of images, each a column wide, with its caption."""
    return max(COLUMN_INCHES * image.shape[0] / image.shape[1] for image in images) + 0.3


def _draw_curves(figure, metric: str, histories: Mapping, floors: Mapping) -> None:
    """The metric of each training on the left, its loss on the right."""
    left, right = figure.subplots(1, 2)
    for color, (name, seeds) in zip(LINES, histories.items(), strict=False):
        _draw_seeds(left, metric, seeds, color=color, label=name, marker="o", ms=4)
        _draw_seeds(right, "loss", seeds, color=color, label=name)
    for dashes, (name, value) in zip(("--", ":"), floors.items(), strict=False):
        left.axhline(value, color=LOSS, lw=1.5, ls=dashes, label=name)
    for axes, label in ((left, f"held-out {metric}"), (right, "training loss")):
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)


def _draw_seeds(axes, key: str, seeds: Sequence[Sequence[dict]], color: str, **style) -> None:
    """A value by epoch: the mean of the seeds that have one, and where there are more, each."""
    lines = [{e["epoch"]: e[key] for e in history if key in e} for history in seeds]
    if len(lines) > 1:
        for line in lines:
            axes.plot(line.keys(), line.values(), color=color, lw=1, alpha=0.4)
    epochs = sorted(set().union(*lines))
    means = [np.mean([line[epoch] for line in lines if epoch in line]) for epoch in epochs]
    axes.plot(epochs, means, color=color, lw=2, **style)


def _draw_row(figure, caption: str, images: Sequence[np.ndarray]) -> None:
    figure.suptitle(caption, x=0.01, ha="left", fontweight="bold", fontsize=9)
    for axes, image in zip(
        figure.subplots(1, len(images), squeeze=False).flat, images, strict=True
    ):
        axes.imshow(image[..., ::-1])
        axes.set_axis_off()


def _few_colors(buffer: io.BytesIO) -> bytes:
    """The same picture in 256 colours, a third of the bytes."""
    small = io.BytesIO()
    picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()
