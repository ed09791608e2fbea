"""LocalMamba's directions, which LocalVMamba and LocalVim share."""

from collections.abc import Sequence

from ..scans.routes import Reverse, Route, Windowed, column, raster
from ._official import choose

_ONE_WAY = {
    "h": raster,
    "v": column,
    "w2": Windowed(2, pad=True),
    "w7": Windowed(7, pad=True),
}
DIRECTIONS = _ONE_WAY | {f"{name}_flip": Reverse(route) for name, route in _ONE_WAY.items()}


def local_routes(directions: Sequence[Sequence[str]]) -> tuple[tuple[Route, ...], ...]:
    """Routes of every block for the authors' names of its directions, such as "w7_flip".

    Raises:
        ValueError: for a name the authors do not have.
    """
    return tuple(
        tuple(choose("directions", name, DIRECTIONS) for name in block) for block in directions
    )
