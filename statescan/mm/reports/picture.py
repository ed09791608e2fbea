"""Pictures of results: a finished classification, a confusion matrix, a sheet of images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from ..errors import InputError

INK, MUTED, LOSS, METRIC, WRONG = "#1f2933", "#7b8794", "#9aa5b1", "#2463a5", "#c2412d"
COLUMNS, ROWS = 6, 2
CELL = 5  # inches of an image's width on a sheet
WRITTEN = 20  # most classes whose counts are written into the confusion matrix


class Curve(NamedTuple):
    """What happened in training.

    ``history`` has entries with ``epoch``, ``loss`` and, where it was evaluated, ``metric``;
    ``references`` are values of the metric to compare with, by name.
    """

    history: Sequence[dict]
    metric: str
    references: Mapping[str, float]


class Answers(NamedTuple):
    """What the model says of N images.

    ``scores`` (N, classes) probabilities, ``labels`` (N,) true class numbers, ``images``
    (N, H, W) grey values, ``classes`` names.
    """

    scores: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    classes: Sequence[str]

    @property
    def predicted(self) -> np.ndarray:
        """(N,) predicted class numbers."""
        return self.scores.argmax(1)


def draw(title: str, curve: Curve, answers: Answers) -> bytes:
    """Draw the picture; returns the bytes of a PNG of 1600x1000 pixels."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "text.color": INK, "axes.edgecolor": MUTED}):
        figure = Figure(figsize=(16, 10), dpi=100, layout="constrained")
        figure.suptitle(title, fontsize=15, fontweight="bold", x=0.01, ha="left")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15), hspace=0.04)
        curve_axes, matrix_axes = top.subplots(1, 2, width_ratios=(1.7, 1))
        _draw_loss(curve_axes, curve)
        _draw_metric(curve_axes.twinx(), curve)
        counts = confusion(answers.labels, answers.predicted, len(answers.classes))
        _draw_matrix(matrix_axes, counts, answers.classes)
        _draw_examples(bottom, answers)
        return _png(figure)


def draw_confusion(title: str, counts: np.ndarray, classes: Sequence[str]) -> bytes:
    """Draw (classes, classes) counts, truth in rows; returns the bytes of a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "text.color": INK, "axes.edgecolor": MUTED}):
        side = 4 + 0.5 * min(len(classes), 40)
        figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
        figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
        _draw_matrix(figure.subplots(), counts, classes)
        return _png(figure)


def draw_sheet(images: Sequence[np.ndarray], columns: int, titles: Sequence[str] = ()) -> bytes:
    """Images (H, W, 3), BGR, of any sizes, side by side; returns the bytes of a PNG.

    Raises:
        InputError: There are none.
    """
    from matplotlib.figure import Figure

    if not images:
        raise InputError("there is no image to draw")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = CELL * np.median([image.shape[0] / image.shape[1] for image in images])
    title_height = 0.3 * bool(titles)
    total = rows * (height + title_height)
    figure = Figure(figsize=(CELL * columns, total), dpi=100)
    figure.subplots_adjust(0, 0, 1, 1 - title_height / total, 0.02, 0.02 + title_height / height)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, image, title in zip_longest(grid, images, titles):
        axes.set_axis_off()
        if image is not None:
            axes.imshow(image[..., ::-1])
            axes.set_title(title or "", fontsize=10, color=INK)
    return _png(figure)


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_loss(axes, curve: Curve) -> None:
    """Training loss over the epochs, on the left axis."""
    epochs = [entry["epoch"] for entry in curve.history]
    axes.set_title("Learning curve", loc="left", fontweight="bold")
    axes.plot(epochs, [entry["loss"] for entry in curve.history], color=LOSS, lw=2)
    axes.set(xlabel="epoch", ylabel="training loss", xlim=(0.5, epochs[-1] + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines["top"].set_visible(False)


def _draw_metric(axes, curve: Curve) -> None:
    """The metric where it was evaluated and its references, on the right axis."""
    evaluated = [entry for entry in curve.history if curve.metric in entry]
    epochs = [entry["epoch"] for entry in evaluated]
    values = [entry[curve.metric] for entry in evaluated]
    axes.plot(epochs, values, color=METRIC, lw=2, marker="o", ms=4)
    for name, value in curve.references.items():
        axes.axhline(value, color=METRIC, lw=1, ls="--", alpha=0.6)
        axes.text(
            0.01, value, name, transform=axes.get_yaxis_transform(), color=METRIC, va="bottom"
        )
    axes.set_ylabel(f"held-out {curve.metric.replace('_', ' ')}", color=METRIC)
    axes.spines["top"].set_visible(False)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts, true class in rows, predicted class in columns."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, -1)


def _draw_matrix(axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Counts coloured by their share of the row, and written into it where there is room."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.set_title("Confusion matrix", loc="left", fontweight="bold")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares if len(classes) <= WRITTEN else ()):
        text = f"{counts[row, column]}\n{share:.0%}"
        color = "white" if share > 0.5 else INK
        size = max(6, 15 - len(classes))
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=0 if len(classes) < 6 else 90)
    axes.set_yticks(ticks, classes, rotation=90 if len(classes) < 6 else 0, va="center")
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)


def choose_examples(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Up to 12 indices, a like number from each (true, predicted) pair, the same every time."""
    pairs = {pair: [] for pair in sorted(set(zip(labels, predicted, strict=True)))}
    for index in np.random.RandomState(0).permutation(len(labels)):
        pairs[labels[index], predicted[index]].append(index)
    share = -(-COLUMNS * ROWS // len(pairs))
    return np.array([index for indices in pairs.values() for index in indices[:share]])[
        : COLUMNS * ROWS
    ]


def _draw_examples(figure, answers: Answers) -> None:
    """A grid of images in the colour of right or wrong."""
    figure.suptitle("Held-out examples", x=0.01, ha="left", fontweight="bold", fontsize=12)
    grid = figure.subplots(ROWS, COLUMNS).flat
    chosen = choose_examples(answers.labels, answers.predicted)
    for axes, index in zip_longest(grid, chosen):
        axes.set(xticks=(), yticks=())
        if index is None:
            axes.set_axis_off()
        else:
            _draw_example(axes, answers, index)


def _draw_example(axes, answers: Answers, index: int) -> None:
    said, truth = answers.predicted[index], answers.labels[index]
    color = METRIC if said == truth else WRONG
    axes.imshow(answers.images[index], cmap="gray", vmin=0, vmax=255)
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=3)
    share = f"{answers.scores[index, said]:.0%}"
    text = f"predicted {answers.classes[said]} ({share})\ntruly {answers.classes[truth]}"
    axes.set_title(text, color=color, fontsize=10)
