"""Pictures of trainings."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from statescan.mm.reports.trainings import _draw_seeds, draw_report


@pytest.mark.parametrize("shapes", [[(20, 30), (30, 20)], [(40, 40)]])
def test_draws_a_small_png(shapes):
    rng = np.random.default_rng(0)
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "mIoU": 30.0}]
    later = [{"epoch": 1, "loss": 3.0, "mIoU": 10.0}, {"epoch": 2, "loss": 2.0, "mIoU": 20.0}]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    rows = {"truth": images, "prediction": images}
    png = draw_report(
        "A title", "mIoU", {"a": [history], "b": [history, later]}, {"floor": 3.0}, rows
    )
    picture = Image.open(io.BytesIO(png))
    assert (picture.format, picture.mode) == ("PNG", "P")
    assert picture.width == 208 * len(shapes)


def test_seeds_are_thin_lines_around_their_mean():
    seeds = [
        [{"epoch": 1, "v": 1.0}, {"epoch": 2, "v": 2.0}],
        [{"epoch": 1}, {"epoch": 2, "v": 4.0}],
    ]
    axes = Figure().add_subplot()
    _draw_seeds(axes, "v", seeds, color="red")
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines == [([1, 2], [1, 2]), ([2], [4]), ([1, 2], [1, 3])]
