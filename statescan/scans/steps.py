"""Selective scans that work on the steps of a route before they scan.

Where something is computed along a route, such as a causal convolution, positions are put in the
order of its steps first, scanned there, and put back after.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..kernels import selective_scan
from ..kernels.linear import Linear
from .parameters import SelectiveParameters, decay_rates
from .routes import Route, resolve_routes, route_table, uses_blank


def to_steps(x: Tensor, table: Tensor) -> Tensor:
    """What the routes (K, T) visit of x (B, L, C): (B, T, K, C). Where no step is, anything."""
    positions = table.mT.flatten().clamp_min(0).long()  # which ONNX asks for
    return x[:, positions].unflatten(1, (table.shape[1], len(table)))


def to_positions(y: Tensor, table: Tensor, length: int) -> Tensor:
    """What the steps y (B, T, K, C) leave at their positions, (B, L, K, C); visits add up.

    Where no step is, y has to be zero, as `selective_scan` leaves it.
    """
    K = len(table)
    slots = table.mT.clamp_min(0).long() * K + torch.arange(K, device=table.device)
    left = y.new_zeros(y.shape[0], length * K, y.shape[-1])
    return left.index_add(1, slots.flatten(), y.flatten(1, 2)).unflatten(1, (length, K))


def scan_steps(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, table: Tensor, **dt_arguments
) -> Tensor:
    """Selective scan of x (B, T, K, C), which is in the order of the routes' steps already."""
    routes = in_order(table)
    return selective_scan(x, dt, A, B, C, D, routes=routes, merge=False, **dt_arguments)


_in_order = WeakTensorKeyDictionary()  # table → the same steps by their numbers


def in_order(table: Tensor) -> Tensor:
    """Routes of what stands in the order of a table's steps: 0, 1, 2, ..., -1 where there is none.

    The same tensor for the same table, since the operator looks at a table's values once.
    """
    if torch.compiler.is_compiling() or type(table) is not Tensor:
        return _number_steps(table)
    if table not in _in_order:
        with torch.inference_mode(False):  # what inference needs first must serve training too
            _in_order[table] = _number_steps(table)
    return _in_order[table]


def _number_steps(table: Tensor) -> Tensor:
    steps = torch.arange(table.shape[1], device=table.device, dtype=table.dtype)
    return torch.where(table < 0, -1, steps)


def along_routes(
    x: Tensor, routes: tuple[Route, ...], H: int, W: int, scan: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Put tokens x (B, L, C) of an H×W grid in the order of K routes, scan them, and put them back.

    Args:
        x: the tokens that routes number, without the blank one.
        routes: the routes.
        H: rows.
        W: columns.
        scan: called with steps (B, T, K, C) and the routes' table (K, T); returns such steps.

    Returns:
        (B, L, K, C), the routes' outputs apart.
    """
    length = x.shape[1]
    if any(map(uses_blank, routes)):
        x = F.pad(x, (0, 0, 0, 1))  # the blank token, behind the others
    table = route_table(routes, H, W, x.device)
    return to_positions(scan(to_steps(x, table), table), table, x.shape[1])[:, :length]


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, T, K, C) along its steps, each of which sees itself and those before it.

    Args:
        x: steps.
        weight: (K, C, size).
        bias: (K, C).
    """
    K, channels, size = weight.shape
    rows = F.pad(x.flatten(2).mT.unsqueeze(2), (size - 1, 0))  # (B, K·C, 1, T), channels last
    kernel = weight.view(K * channels, 1, 1, size)
    y = F.conv2d(rows, kernel, bias.flatten(), groups=K * channels)
    return y.squeeze(2).mT.unflatten(2, (K, channels))


def causal_scan(
    x: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    *,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj_weight: Tensor,
    dt_proj_weight: Tensor,
    dt_proj_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
) -> Tensor:
    """Causal convolution, SiLU and S6 along the steps of routes, with the parameters of `CausalS6`.

    Args:
        x: steps (B, T, K, C).
        table: the routes (K, T).
        mask: factor (B, T, K, 1) of what the convolution gives.
        conv_weight: (K, C, size).
        conv_bias: (K, C).
        x_proj_weight: (K, R + 2N, C).
        dt_proj_weight: (K, C, R).
        dt_proj_bias: (K, C).
        A_log: (K, C, N).
        D: (K, C).
    """
    x = F.silu(causal_convolution(x, conv_weight, conv_bias))
    x = x if mask is None else x * mask
    projected = torch.einsum("btkc,kwc->btkw", x, x_proj_weight)
    R, N = dt_proj_weight.shape[-1], A_log.shape[-1]
    dt, B, C = projected.split((R, N, N), dim=-1)
    A, delta = decay_rates(A_log), {"dt_weight": dt_proj_weight, "dt_bias": dt_proj_bias}
    return scan_steps(x, dt, A, B, C, D, table, **delta)


class CausalS6(SelectiveParameters):
    """Causal convolution and SiLU along each route, then S6 with inputs of its own.

    Tokens (B, L, C) → (B, L, C), where L is what the routes visit of an H×W grid: H·W, or one more
    with routes made by `ClassToken`.

    Args:
        dim: channels C.
        routes: a name from `ROUTE_SETS`, or a sequence of names and routes.
        d_state: states a channel, N.
        dt_rank: rank R of dt.
        conv_size: kernel size of the convolution.
        merge: "sum" or "mean" of the routes' outputs, or a module (B, L, K, C) → (B, L, C).

    Source: the two directions of Vim, arXiv 2401.09417, algorithm 1.
    """

    parameter_names = (
        *("conv_weight", "conv_bias", "x_proj_weight", "dt_proj_weight", "dt_proj_bias"),
        *("A_log", "D"),
    )

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str | Route] = "bidirectional",
        d_state: int = 16,
        dt_rank: int = 1,
        conv_size: int = 4,
        merge: str | nn.Module = "mean",
    ):
        routes = resolve_routes(routes)
        K, width = len(routes), dt_rank + 2 * d_state
        super().__init__(
            dim, scans=(K,), width=width, d_state=d_state, dt_rank=dt_rank, merge=merge
        )
        self.routes = routes
        self.conv_weight = nn.Parameter(torch.empty(K, dim, conv_size))
        self.conv_bias = nn.Parameter(torch.empty(K, dim))
        bound = conv_size**-0.5  # torch's for a depthwise convolution
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)

    def forward(
        self,
        x: Tensor,
        H: int,
        W: int,
        gate: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Scan tokens x (B, L, C) of an H×W grid.

        With a gate (B, L, C), or (B, L, K, C), one a route, each route's output is multiplied by
        it before the merge. Tokens where a mask (B, L, 1) is 0 leave no trace in others, as if
        they were not there, provided that they come first or last on a route.
        """
        if mask is None:
            y = along_routes(x, self.routes, H, W, self.scan)
        else:
            both = torch.cat([x * mask, mask], dim=-1)
            y = along_routes(both, self.routes, H, W, self.scan_masked)
        if gate is not None and gate.dim() == 4:
            y, gate = y * gate, None
        if isinstance(self.merge, nn.Module):
            return self.merge(y if gate is None else y * gate.unsqueeze(2))
        y = y.sum(2) if self.merge == "sum" else y.mean(2)
        return y if gate is None else y * gate

    def scan_masked(self, x: Tensor, table: Tensor) -> Tensor:
        """Scan steps x (B, T, K, C + 1): inputs, and a factor for what their convolution gives."""
        return self.scan(x[..., :-1], table, x[..., -1:])

    def scan(self, x: Tensor, table: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve and scan x (B, T, K, C) along its steps; mask is a factor in between."""
        parameters = {name: getattr(self, name) for name in self.parameter_names}
        return causal_scan(x, table, mask, **parameters)


class TokenScan(nn.Module):
    """Causal scan as a token mixer: project, scan along routes, gate, project back.

    Tokens (B, L, C) of an H×W grid → (B, L, C).

    Args:
        dim: channels C.
        expand: inner width as a multiple of dim.
        dt_rank: rank of dt; "auto" is ceil(dim / 16).
        merge: as in `CausalS6`, or a function of the inner width that makes such a module.
        **scan: further arguments of `CausalS6`.

    Source: Vim, arXiv 2401.09417, figure 2.
    """

    def __init__(
        self,
        dim: int,
        *,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        merge: str | Callable[[int], nn.Module] = "mean",
        **scan,
    ):
        super().__init__()
        inner = int(dim * expand)
        self.in_proj = Linear(dim, inner * 2, bias=False)
        self.s6 = CausalS6(
            inner,
            dt_rank=math.ceil(dim / 16) if dt_rank == "auto" else int(dt_rank),
            merge=merge if isinstance(merge, str) else merge(inner),
            **scan,
        )
        self.out_proj = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, H: int, W: int, mask: Tensor | None = None) -> Tensor:
        """Mix tokens x (B, L, C) of an H×W grid; a mask (B, L, 1) is as in `CausalS6`."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        return self.out_proj(self.s6(x, H, W, gate=F.silu(z), mask=mask))
