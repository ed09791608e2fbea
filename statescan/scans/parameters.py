"""What S6 and the 2-D recurrences share: the parameters of selective scans, and how they start."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

MERGES = ("sum", "mean")
Merge = nn.Module | Callable[[int], nn.Module]


def decay_rates(A_log: Tensor) -> Tensor:
    """A of its logarithm, negative, in float32 at least."""
    return -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))


class SelectiveParameters(nn.Module):
    """Parameters of a set of selective scans, named and initialised as Mamba's.

        x_proj_weight  (K, width, C)   the inputs' low-rank dt, input and output matrices
        dt_proj_weight (*scans, C, R)
        dt_proj_bias   (*scans, C)
        A_log          (*scans, C, N)
        D              (K, C)

    Args:
        dim: channels C; with heads, those of all heads together.
        scans: shape of the set; K is the first size.
        width: numbers that a position's x is projected to.
        d_state: states a channel, N.
        dt_rank: rank R of dt.
        merge: how outputs are merged: one of `MERGES`, a module, or what makes one of dim.
        heads: parts of the channels, dim / heads each, which are then the C of every scan.
    """

    def __init__(
        self,
        dim: int,
        *,
        scans: tuple[int, ...],
        width: int,
        d_state: int,
        dt_rank: int,
        merge: str | Merge,
        heads: int = 1,
    ):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads is {heads}, which does not divide the {dim} channels")
        if isinstance(merge, str) and merge not in MERGES:
            raise ValueError(f"merge is {merge!r}, expected one of {MERGES} or a module")
        self.merge = merge if isinstance(merge, str | nn.Module) else merge(dim)
        self.d_state, self.dt_rank, self.heads = d_state, dt_rank, heads
        dim //= heads
        self.x_proj_weight = nn.Parameter(torch.empty(scans[0], width, dim))
        self.dt_proj_weight = nn.Parameter(torch.empty(*scans, dim, dt_rank))
        self.dt_proj_bias = nn.Parameter(torch.empty(*scans, dim))
        self.A_log = nn.Parameter(torch.empty(*scans, dim, d_state))
        self.D = nn.Parameter(torch.empty(scans[0], dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1) -> None:
        """Mamba's initialisation: A = -(1..N), step sizes log-uniform in [dt_min, dt_max]."""
        for weight in self.x_proj_weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        nn.init.uniform_(self.dt_proj_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        dt = self.dt_proj_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_()
        dt.add_(torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def decay_rates(self) -> Tensor:
        """A (*scans, C, N), negative, in float32 at least."""
        return decay_rates(self.A_log)
