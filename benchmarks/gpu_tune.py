"""The selective scan with every tile of a small set, so that `gpu.tile` can be set from it."""

from itertools import product
from unittest import mock

import torch
from gpu_scans import LEAST_ERROR, Line, exact, make_inputs, ours, run, worst
from gpu_timing import Clock, captured, poisoned, refuse
from torch import Tensor

from statescan.kernels.selective_scan import gpu
from statescan.kernels.selective_scan.gpu import Tile

BLOCKS, STEPS, WARPS = (32, 64, 128), (2, 4, 8), (1, 2)
LINES = {
    "N=1": Line(128, 56, 56, 192, "cross", 1, 6),
    "N=1, full dt": Line(128, 56, 56, 192, "cross", 1),
    "N=1, batch 1": Line(1, 200, 320, 192, "cross", 1, 6),
    "N=16": Line(128, 56, 56, 192, "cross", 16, 6),
}
MOST_STATES = 2048  # of a program: more do not stay in registers
MOST_DECAYS = 2048  # of steps read together: more take minutes to compile


def tiles(N: int) -> list[Tile]:
    """Tiles to try for N states: whole warps, as much as stays in registers."""
    return [
        tile
        for tile in (Tile(*sizes) for sizes in product(BLOCKS, STEPS, WARPS))
        if tile.BLOCK >= 32 * tile.WARPS
        and tile.BLOCK * N <= MOST_STATES
        and tile.BLOCK * tile.STEPS * N <= MOST_DECAYS
    ]


def time(line: Line, inputs: dict[str, Tensor], table: Tensor, want: dict, clock: Clock) -> dict:
    """Milliseconds of forward and backward with the tile that `gpu.tile` gives; checked first."""
    scan = ours(inputs, table)
    dy = torch.ones_like(inputs["x"])
    limit = max(LEAST_ERROR, 3 * torch.finfo(line.dtype).eps)
    with poisoned():
        refuse("ours", worst(run(scan, dy), want), limit)
    capture = captured if clock.device.type == "cuda" else lambda call: call
    leaves = list(inputs.values())

    def forward() -> None:
        with torch.no_grad():
            scan.compute(inputs)

    both = capture(lambda: torch.autograd.grad(scan.compute(inputs), leaves, dy))
    alone = clock.time(capture(forward)).median
    return {"forward": alone, "backward": clock.time(both).median - alone}


def measure(line: Line, clock: Clock) -> dict:
    """Milliseconds of every tile, and which won forward and backward."""
    inputs, table = make_inputs(line, clock.device)
    want = exact(inputs, table, torch.ones_like(inputs["x"]))
    tried = {}
    for tile in tiles(line.N):
        with mock.patch.object(gpu, "tile", lambda N, once, backward, tile=tile: tile):
            tried[name(tile)] = time(line, inputs, table, want, clock)
        print(
            f"    {name(tile)}", {k: round(v, 4) for k, v in tried[name(tile)].items()}, flush=True
        )
    best = {k: min(tried, key=lambda t, k=k: tried[t][k]) for k in ("forward", "backward")}
    return {"won": best, "ms": tried}


def name(tile: Tile) -> str:
    """A tile in words."""
    return f"BLOCK={tile.BLOCK} STEPS={tile.STEPS} WARPS={tile.WARPS}"


def print_row(line: str, row: dict) -> None:
    """Which tiles won."""
    for what, best in row["won"].items():
        print(f"{line:16} {what:9} {best}  {row['ms'][best][what]:.4f} ms", flush=True)
