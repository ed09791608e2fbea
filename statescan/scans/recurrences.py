"""True 2-D recurrences as modules, each scanning the grid from up to four orientations."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import scan_2dmamba, scan_mamba2d, scan_v2m_columns, scan_v2m_rows
from .parameters import Merge, SelectiveParameters

DIRECTIONS = 4


def turn(x: Tensor, direction: int) -> Tensor:
    """Orientation of a grid x (B, H, W, C): as it is, transposed, both flipped, or all of it.

    Its own inverse: turning twice gives x back.
    """
    x = x.transpose(1, 2) if direction % 2 else x
    return x.flip(1, 2) if direction >= 2 else x


class Recurrence2d(SelectiveParameters, ABC):
    """Scans a grid from some orientations and merges the outputs, turned back.

    (B, H, W, C) → (B, H, W, C), for any H and W. Subclasses give `scan` of a turned grid. As in
    VMamba, a scan runs along rows, columns, reversed rows and reversed columns, in this order.

    Args:
        dim: channels C.
        d_state: states a channel, N.
        dt_rank: rank R of dt.
        merge: "sum" or "mean" of the outputs, or a module (B, H, W, K, C) → (B, H, W, C),
            or what makes one of the channels C.
        directions: how many of the four orientations, K.
    """

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 1,
        dt_rank: int = 1,
        merge: str | Merge = "sum",
        directions: int = DIRECTIONS,
    ):
        if not 1 <= directions <= DIRECTIONS:
            raise ValueError(f"directions is {directions}, expected 1 to {DIRECTIONS}")
        scans, width = self.sizes(directions, d_state, dt_rank)
        super().__init__(
            dim, scans=scans, width=width, d_state=d_state, dt_rank=dt_rank, merge=merge
        )
        self.directions = directions

    @staticmethod
    @abstractmethod
    def sizes(directions: int, d_state: int, dt_rank: int) -> tuple[tuple[int, ...], int]:
        """`scans` and `width` of `SelectiveParameters`."""

    @abstractmethod
    def scan(self, x: Tensor, direction: int) -> Tensor:
        """Scan a turned grid x (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Scan x (B, H, W, C)."""
        ys = [turn(self.scan(turn(x, k), k), k) for k in range(self.directions)]
        if isinstance(self.merge, nn.Module):
            return self.merge(torch.stack(ys, dim=3))
        y = sum(ys[1:], start=ys[0])
        return y / len(ys) if self.merge == "mean" else y

    def project(self, x: Tensor, k: int, *sizes: int) -> tuple[Tensor, ...]:
        """Projections of x (B, H, W, C) by the k-th weight, in parts of these sizes."""
        return F.linear(x, self.x_proj_weight[k]).split(sizes, dim=-1)

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        sizes = f"d_state={self.d_state}, dt_rank={self.dt_rank}, directions={self.directions}"
        return f"{self.D.shape[-1]}, {sizes}"


class TwoDMamba(Recurrence2d):
    """2DMamba's scan: along rows, then down columns, with the same decay.

    Every direction has parameters of its own, with the names and shapes of S6. Arguments are those
    of `Recurrence2d`.

    Source: 2DMamba, arXiv 2412.00678.
    """

    @staticmethod
    def sizes(directions: int, d_state: int, dt_rank: int) -> tuple[tuple[int, ...], int]:
        """One scan a direction."""
        return (directions,), dt_rank + 2 * d_state

    def scan(self, x: Tensor, direction: int) -> Tensor:
        """Scan a turned grid x (B, H, W, C)."""
        k = direction
        dt, B, C = self.project(x, k, self.dt_rank, self.d_state, self.d_state)
        dt = F.linear(dt, self.dt_proj_weight[k])
        A = self.decay_rates()[k]
        return scan_2dmamba(x, dt, A, B, C, self.D[k], dt_bias=self.dt_proj_bias[k])


class Mamba2D(Recurrence2d):
    """Mamba2D's wavefront: every state is the mean of those from its top and its left neighbour.

    Every direction has parameters of its own. dt_proj_weight, dt_proj_bias and A_log hold, in
    their second dimension, those of the top and of the left neighbour; x_proj_weight (K, 2 R + 3 N,
    C) gives dt_top, dt_left, B_top, B_left and the C that both share. Mamba2D itself scans from one
    corner (`directions=1`) or two opposite ones, averaged, with one B for both neighbours.
    Arguments are those of `Recurrence2d`.

    Source: Mamba2D, arXiv 2412.16146.
    """

    @staticmethod
    def sizes(directions: int, d_state: int, dt_rank: int) -> tuple[tuple[int, ...], int]:
        """Two scans, top and left, a direction."""
        return (directions, 2), 2 * dt_rank + 3 * d_state

    def scan(self, x: Tensor, direction: int) -> Tensor:
        """Scan a turned grid x (B, H, W, C)."""
        k, R, N = direction, self.dt_rank, self.d_state
        dt_top, dt_left, B_top, B_left, C = self.project(x, k, R, R, N, N, N)
        dt_top = F.linear(dt_top, self.dt_proj_weight[k, 0])
        dt_left = F.linear(dt_left, self.dt_proj_weight[k, 1])
        A_top, A_left = self.decay_rates()[k]
        bias_top, bias_left = self.dt_proj_bias[k]
        grids = (x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, self.D[k])
        return scan_mamba2d(*grids, dt_bias_top=bias_top, dt_bias_left=bias_left)


class V2M(Recurrence2d):
    """V2M's scan: an S6 of every row with C ≡ 1, then one of its columns with B ≡ 1.

    All directions share the parameters, whose first dimension is the pass: x_proj_weight
    (2, R + N, C) gives dt and B of the rows from x, and dt and C of the columns from the rows'
    result. V2M's own convolution and gate between the passes are not part of this.
    Arguments are those of `Recurrence2d`.

    Source: V2M, arXiv 2410.10382.
    """

    @staticmethod
    def sizes(directions: int, d_state: int, dt_rank: int) -> tuple[tuple[int, ...], int]:
        """Two passes, whatever the directions."""
        return (2,), dt_rank + d_state

    def scan(self, x: Tensor, direction: int) -> Tensor:
        """Scan a turned grid x (B, H, W, C)."""
        A, A2 = self.decay_rates()
        dt, B = self.project(x, 0, self.dt_rank, self.d_state)
        dt = F.linear(dt, self.dt_proj_weight[0])
        u = scan_v2m_rows(x, dt, A, B, self.D[0], dt_bias=self.dt_proj_bias[0])
        dt, C = self.project(u, 1, self.dt_rank, self.d_state)
        dt = F.linear(dt, self.dt_proj_weight[1])
        return scan_v2m_columns(u, dt, A2, C, self.D[1], dt_bias2=self.dt_proj_bias[1])


RECURRENCES = {"2dmamba": TwoDMamba, "mamba2d": Mamba2D, "v2m": V2M}
