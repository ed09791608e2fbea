"""What the operators share when they are taken apart into torch's own: loops, reads and sums."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def loop(
    step: Callable, h: Tensor, inputs: Sequence[Tensor], constants: Sequence[Tensor]
) -> Tensor:
    """Outputs of a loop over the inputs' first dimension, stacked: torch's operator `scan`.

    Each `step(h, *slices, *constants)` returns the next h and an output of its own memory.
    """
    from torch._higher_order_ops.scan import scan_op  # torch.compile, in front of it, marks sizes

    arrays = [t.contiguous() for t in (h, *inputs, *constants)]
    after = 1 + len(inputs)
    return scan_op(step, arrays[:1], arrays[1:after], arrays[after:])[1]


def read(t: Tensor, routes: Tensor) -> Tensor:
    """Rows (B, L, ·), or (B, L, K, ·), at each step (K, T) of the routes: (T, B, K, ·).

    A step that is none reads position 0.
    """
    at = routes.clamp_min(0)
    route = torch.arange(len(routes), device=routes.device)[:, None]
    return (t[:, at] if t.dim() == 3 else t[:, at, route]).movedim(2, 0)


def skipped(routes: Tensor) -> Tensor:
    """Which steps of the routes (K, T) are none: (T, 1, K, 1)."""
    return (routes < 0).mT[:, None, :, None]


def add_up(rows: Tensor, routes: Tensor, length: int, merge: bool, once: bool) -> Tensor:
    """Rows (T, B, K, C) summed at the positions visited: (B, L, C), or (B, L, K, C) unmerged.

    Where the routes are known to visit every position once, nothing is added, so that every run
    has the same bits wherever it takes place.
    """
    rows = rows.masked_fill(skipped(routes), 0).movedim(0, 1)  # (B, T, K, C)
    at = routes.clamp_min(0).mT[None, :, :, None].expand_as(rows)
    y = rows.new_zeros(rows.shape[0], length, *rows.shape[2:])
    y = y.scatter(1, at, rows) if once else y.scatter_add(1, at, rows)
    return y.sum(2) if merge else y
