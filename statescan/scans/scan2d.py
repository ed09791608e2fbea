"""2-D selective scan: the token mixer of Mamba-style vision backbones."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dwconv_silu, merge_norm, selective_scan, selective_scan_states
from ..kernels.dwconv_silu import is_fused as conv_is_fused
from ..kernels.linear import Linear, linear
from ..kernels.merge_norm import is_fused as norm_is_fused
from .fusion import StateFusion
from .parameters import Merge, SelectiveParameters
from .recurrences import RECURRENCES
from .routes import (
    Route,
    is_permutation,
    resolve_routes,
    route_table,
    routes_by_head,
    uses_blank,
)


class S6(SelectiveParameters):
    """Selective scan whose step sizes, input and output matrices are linear in its input.

    (B, H, W, C) → (B, H, W, C), for any H and W. Each of the K routes has parameters of its own:
    one matrix gives the low-rank dt, B and C of every position for all routes at once.

    With heads, the channels are that many parts side by side, each scanned by itself along routes
    and with parameters of its own. All are one call of the operator, whose K routes are the first
    one of every head, then every head's second and so on; so are the parameters, for C / heads
    channels each.

    Args:
        dim: channels C.
        routes: a name from `ROUTE_SETS`, or a sequence of names and routes; with heads, also a
            sequence of such sequences, one for each head, all with as many routes.
        heads: parts of the channels, a divisor of C.
        d_state: states a channel, N.
        dt_rank: rank R of dt.
        merge: "sum" or "mean" of the routes' outputs, or a module (B, H, W, K, C) → (B, H, W, C),
            or what makes one of the channels C. With heads, it gets the K / heads routes of each,
            their channels side by side. One that says `full_precision = True` gets them in float32
            (float64) whatever type x is of, without state_fusion.
        state_fusion: dilations of the kernels that fuse neighbouring states before they are read
            out (see `StateFusion`); empty for no fusion. With it, D skips at every position, also
            where a route does not come.

    Source: Mamba, arXiv 2312.00752, section 3.2; for images VMamba, arXiv 2401.10166.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str | Route] | Sequence[Sequence[str | Route]] = "cross",
        heads: int = 1,
        d_state: int = 1,
        dt_rank: int = 1,
        merge: str | Merge = "sum",
        state_fusion: Sequence[int] = (),
    ):
        if state_fusion and heads > 1:
            raise ValueError(f"state_fusion is {state_fusion!r}, expected none with {heads} heads")
        routes = routes_by_head(routes, heads)
        super().__init__(
            dim,
            scans=(len(routes),),
            width=dt_rank + 2 * d_state,
            d_state=d_state,
            dt_rank=dt_rank,
            merge=merge,
            heads=heads,
        )
        self.routes = routes
        self.full_precision = getattr(self.merge, "full_precision", False)
        self.permutation = all(map(is_permutation, routes))
        fused = len(routes) * dim * d_state
        self.fusion = StateFusion(fused, state_fusion) if state_fusion else None

    def forward(self, x: Tensor, *, apart: bool = False, gate: Tensor | None = None) -> Tensor:
        """Scan x (B, H, W, C); with `apart`, leave the sum to the caller: (B, H, W, K, C).

        Outputs stay apart only where every route visits every position: others share their rows.
        A gate (B, H, W, K, C) multiplies each route's output before the merge.
        """
        H, W = x.shape[1:3]
        tokens = x.flatten(1, 2)
        if any(map(uses_blank, self.routes)):
            tokens = F.pad(tokens, (0, 0, 0, 1))  # the blank token, at index H·W
        table = route_table(self.routes, H, W, x.device)
        each = gate is not None or isinstance(self.merge, nn.Module)
        if self.fusion is None:
            apart = apart and self.merge == "sum" and self.permutation
            y = self.scan(tokens, table, apart or each)[:, : H * W].unflatten(1, (H, W))
        else:
            y = self.scan_and_fuse(tokens, table, x, each)
        if gate is not None:
            y = y * gate
        if isinstance(self.merge, nn.Module):
            return self.merge(y).to(x.dtype) if self.full_precision else self.merge(y)
        y = y.sum(3) if gate is not None else y
        return y * self.heads / len(self.routes) if self.merge == "mean" else y

    def scan(self, x: Tensor, table: Tensor, apart: bool = False) -> Tensor:
        """Scan tokens x (B, L, C) along the routes of an index table (K, T)."""
        dt, B, C = self.project(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32)) if self.full_precision else x
        y = selective_scan(
            x if self.heads == 1 else self.of_each_route(x),
            dt,
            self.decay_rates(),
            B,
            C,
            self.D,
            dt_weight=self.dt_proj_weight,
            dt_bias=self.dt_proj_bias,
            routes=table,
            merge=self.heads == 1 and not apart,
            permutation=self.permutation,
        )
        if self.heads == 1:
            return y
        y = y.unflatten(2, (-1, self.heads)).flatten(3)
        return y if apart else y.sum(2)

    def of_each_route(self, x: Tensor) -> Tensor:
        """The part of tokens x (B, L, C) that each route's head scans: (B, L, K, C / heads)."""
        parts = x.unflatten(-1, (self.heads, -1)).unsqueeze(2)
        return parts.expand(-1, -1, len(self.routes) // self.heads, -1, -1).flatten(2, 3)

    def scan_and_fuse(self, tokens: Tensor, table: Tensor, grid: Tensor, apart: bool) -> Tensor:
        """Scan tokens (B, L, C), fuse the states on their grid (B, H, W, C), then read them out."""
        dt, B, C = self.project(tokens)
        h = selective_scan_states(
            tokens,
            dt,
            self.decay_rates(),
            B,
            dt_weight=self.dt_proj_weight,
            dt_bias=self.dt_proj_bias,
            routes=table,
            permutation=self.permutation,
        )
        H, W = grid.shape[1:3]
        h, C = (t[:, : H * W].unflatten(1, (H, W)) for t in (h, C))
        h = self.fusion(h.flatten(3)).view_as(h)
        y = (h * C.unsqueeze(-2)).sum(-1) + self.D * grid.unsqueeze(-2)
        return y if apart else y.sum(3)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low-rank dt, B and C of tokens x (B, L, C) for every route: (B, L, K, R or N)."""
        K, width, _ = self.x_proj_weight.shape
        if self.heads == 1:
            projected = linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (K, width))
        else:
            parts = x.unflatten(-1, (self.heads, -1))
            weight = self.x_proj_weight.unflatten(0, (-1, self.heads))
            projected = torch.einsum("blhc,khwc->blkhw", parts, weight).flatten(2, 3)
        return projected.split((self.dt_rank, self.d_state, self.d_state), dim=-1)

    def extra_repr(self) -> str:
        """Routes and sizes, for print(model)."""
        dim, d_state = self.A_log.shape[1:]
        names = ", ".join(getattr(r, "__name__", repr(r)) for r in self.routes)
        heads = f", heads={self.heads}" if self.heads > 1 else ""
        return f"{dim}, routes=({names}){heads}, d_state={d_state}, dt_rank={self.dt_rank}"


class MultiHeadS6(nn.Module):
    """Project to heads, scan each by itself, normalise all together, project back.

    (B, H, W, C) → (B, H, W, C), for any H and W. The heads have ⌊C / heads⌋ channels each.

    Args:
        dim: channels C.
        heads: number of heads.
        **s6: routes, one set for all heads or one for each, and further arguments of `S6`.

    Source: the multi-head scan module of MHS-VM, arXiv 2406.05992, section 3.2.
    """

    def __init__(self, dim: int, *, heads: int, **s6):
        super().__init__()
        if not 1 <= heads <= dim:
            raise ValueError(f"heads is {heads}, expected 1 to the {dim} channels")
        inner = dim // heads * heads
        self.in_proj = Linear(dim, inner, bias=False)
        self.s6 = S6(inner, heads=heads, **s6)
        self.norm = nn.LayerNorm(inner)
        self.out_proj = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scan x (B, H, W, C)."""
        return self.out_proj(self.norm(self.s6(self.in_proj(x))))


def scanner(
    recurrence: str,
    routes: str | Sequence[str | Route] | Sequence[Sequence[str | Route]],
    state_fusion: Sequence[int],
    heads: int,
) -> Callable[..., nn.Module]:
    """The module that a recurrence's name stands for, still to be given its sizes."""
    if recurrence == "s6":
        s6 = partial(MultiHeadS6, heads=heads) if heads > 1 else S6
        return partial(s6, routes=routes, state_fusion=state_fusion)
    if recurrence not in RECURRENCES:
        names = ("s6", *RECURRENCES)
        raise ValueError(f"recurrence is {recurrence!r}, expected one of {names}")
    if routes != "cross":
        raise ValueError(f"routes is {routes!r}, but recurrence {recurrence!r} follows no routes")
    if state_fusion:
        raise ValueError(
            f"state_fusion is {state_fusion!r}, but recurrence {recurrence!r} keeps its states"
        )
    if heads > 1:
        raise ValueError(f"heads is {heads}, but recurrence {recurrence!r} has one")
    return RECURRENCES[recurrence]


def gate_count(
    gate: bool | str, recurrence: str, routes: str | Sequence[str | Route], heads: int
) -> int:
    """How many gates `Scan2d` has.

    Raises:
        ValueError: for an unknown kind of gate, or one a route where nothing follows routes or
            where heads do.
    """
    if gate in (False, True):
        return int(gate)
    if gate != "route":
        raise ValueError(f"gate is {gate!r}, expected False, True or 'route'")
    if recurrence != "s6":
        raise ValueError(f"gate is 'route', but recurrence {recurrence!r} follows no routes")
    if heads > 1:
        raise ValueError(f"gate is 'route', expected False or True with {heads} heads")
    return len(resolve_routes(routes))


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of just this class and nothing watches its calls, so that its parameters
    alone say what it does.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(module) is kind and not any(getattr(module, name) for name in hooks)


def is_depthwise(conv: nn.Module) -> bool:
    """Whether a module is a depthwise convolution that keeps the size of the map, zero outside."""
    return (
        is_plain(conv, nn.Conv2d)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == conv.dilation == (1, 1)
        and conv.kernel_size == (conv.kernel_size[0],) * 2
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.padding_mode == "zeros"
    )


def channelwise(dim: int, *, size: int, bias: bool) -> nn.Conv2d:
    """A depthwise convolution of odd size that keeps the size of the map."""
    if size % 2 == 0:
        raise ValueError(f"conv_size is {size}, expected an odd number")
    return nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim, bias=bias)


def is_layer_norm(norm: nn.Module, channels: int) -> bool:
    """Whether a module is a layer norm over the channels, with a weight."""
    return (
        is_plain(norm, nn.LayerNorm)
        and norm.normalized_shape == (channels,)
        and norm.weight is not None
    )


class Scan2d(nn.Module):
    """2-D scan as a token mixer: project, convolve, scan along routes, normalise, project back.

    (B, H, W, C) → (B, H, W, C), for any H and W.

    Args:
        dim: channels C.
        routes: a name from `ROUTE_SETS`, or a sequence of names and routes; with heads, also a
            sequence of such sequences, one for each head.
        d_state: states a channel, N.
        expand: inner width as a multiple of dim.
        dt_rank: rank of dt; "auto" is ceil(dim / heads / 16).
        heads: more than one make the scan a `MultiHeadS6`: the channels are projected to that many
            parts, each scanned by itself, then normalised together and projected back.
        conv_size: kernel size of the depthwise convolution before the scan, odd.
        conv_bias: whether that convolution has a bias.
        local: makes, of the inner channels, what takes that convolution's place: a module
            (B, H, W, C) → (B, H, W, C).
        gate: multiply the normalised output by act(z), z a second projection of the input; or
            "route": multiply each route's output by an act(z) of its own, before the merge and the
            norm (MambaMixer, arXiv 2403.19888; only with recurrence "s6").
        merge: "sum" or "mean" of the routes' outputs, or a module (B, H, W, K, C) → (B, H, W, C),
            or what makes one of the channels C.
        act_layer: activation after the convolution and on the gate.
        recurrence: what scans: "s6" along the routes, or a 2-D recurrence over the whole grid from
            four orientations, "2dmamba", "mamba2d" or "v2m" (see `scans.recurrences`).
        state_fusion: dilations of the kernels that fuse the scan's states, as in `S6`.
        attention: makes, of the inner channels, what weighs the normalised output before it is
            projected back: a module (B, H, W, C) → (B, H, W, C).
        project_out: whether the last projection is there; without it expand has to be 1.

    Source: SS2D of VMamba, arXiv 2401.10166, figure 3 (its v0 with gate, its v2 without).
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str | Route] | Sequence[Sequence[str | Route]] = "cross",
        d_state: int = 1,
        expand: float = 1.0,
        dt_rank: int | str = "auto",
        heads: int = 1,
        conv_size: int = 3,
        conv_bias: bool = False,
        local: Callable[[int], nn.Module] | None = None,
        gate: bool | str = False,
        merge: str | Merge = "sum",
        act_layer: Callable[[], nn.Module] = nn.SiLU,
        recurrence: str = "s6",
        state_fusion: Sequence[int] = (),
        attention: Callable[[int], nn.Module] | None = None,
        project_out: bool = True,
    ):
        super().__init__()
        inner, gates = int(dim * expand), gate_count(gate, recurrence, routes, heads)
        if inner != dim and not project_out:
            raise ValueError(f"expand is {expand}, expected 1 without the last projection")
        self.dim, self.inner, self.gate = dim, inner, gate
        self.in_proj = Linear(dim, inner * (1 + gates), bias=False)
        self.conv = (local or partial(channelwise, size=conv_size, bias=conv_bias))(inner)
        self.local = local is not None
        self.act = act_layer()
        self.s6 = scanner(recurrence, routes, state_fusion, heads)(
            inner,
            d_state=d_state,
            dt_rank=math.ceil(dim // heads / 16) if dt_rank == "auto" else int(dt_rank),
            merge=merge,
        )
        self.norm = nn.LayerNorm(inner)
        self.attention = None if attention is None else attention(inner)
        self.out_proj = Linear(inner, dim, bias=False) if project_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, H, W, C)."""
        if x.dim() != 4 or x.shape[-1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, H, W, {self.dim})")
        x, z = self.in_proj(x).tensor_split((self.inner,), dim=-1)
        y = self.scan(self.convolve(x), z if self.gate else None)
        return self.out_proj(y if self.attention is None else self.attention(y))

    def convolve(self, x: Tensor) -> Tensor:
        """Convolution and activation of x (B, H, W, C), in one kernel where there is one."""
        conv, act = self.conv, self.act
        if self.local:
            return act(conv(x))
        plain = is_plain(act, nn.SiLU) and is_depthwise(conv)
        if plain and conv_is_fused(x, conv.weight, conv.bias):
            return dwconv_silu(x, conv.weight, conv.bias)
        return act(conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)

    def scan(self, x: Tensor, z: Tensor | None) -> Tensor:
        """Scan of x, norm, and gate by z; after the scan one kernel where there is one."""
        norm, act = self.norm, self.act
        if self.gate == "route":
            return norm(self.s6(x, gate=act(z.unflatten(-1, (-1, self.inner)))))
        plain = is_layer_norm(norm, x.shape[-1]) and (z is None or is_plain(act, nn.SiLU))
        if not (plain and norm_is_fused(x, norm.weight, norm.bias, z)):
            y = norm(self.s6(x))
            return y if z is None else y * act(z)
        y = self.s6(x, apart=True) if is_plain(self.s6, S6) else self.s6(x)
        z = None if z is None else z.flatten(1, 2)
        y = merge_norm(y.flatten(1, 2), norm.weight, norm.bias, z, eps=norm.eps)
        return y.unflatten(1, x.shape[1:3])
