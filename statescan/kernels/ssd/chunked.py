"""SSD in pure torch by chunks: matrix products within a chunk, a state between two.

A chunk of `CHUNK` steps is one small attention, `(C Bᵀ ∘ E) (delta x)`, where E[t, j] is the
decay from step j to step t; what came before it enters through its first state. Only the state
before each chunk is kept; the backward pass recomputes the rest chunk by chunk. The logarithm of
a decay is the sum of the steps that it spans, never a difference of two longer sums: where A is
negative nothing can overflow, and strong decays do not drown weak ones.

Symbols and shapes are those of `reference.py`; R = H / G is the heads of a group. Arrays of a
chunk are (K, B, G, R, T, ·), with size 1 where a symbol does not vary.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._arguments import all_steps, compute_dtype
from ..selective_scan.streaming import add_rows, places, softplus

CHUNK = 64  # steps between two saved states
BLOCK = 2**20  # elements of a chunk's decays or inputs: hides dispatch, stays near caches
GPU_BLOCK = 2**24  # fills a GPU


class Inputs(NamedTuple):
    """The operator's inputs, one row for each (sample, position) or (sample, position, route)."""

    x: Tensor  # (B·L, H·P) shared by the routes, or (B·L·K, H·P)
    dt: Tensor  # (B·L·K, H)
    A: Tensor  # (K, 1, G, R, 1)
    B: Tensor  # (B·L·K, G·N)
    C: Tensor  # (B·L·K, G·N)
    D: Tensor | None  # (K, 1, G, R, 1, 1)
    dt_bias: Tensor | None  # (K, 1, G, R, 1)
    routes: Tensor  # (K, T)
    length: int
    x_shared: bool
    merge: bool
    all_steps: bool  # whether no route has a step that is none
    grows: bool  # whether any A is above zero


class Chunk(NamedTuple):
    """What some steps read, gathered along the routes, in the compute dtype; and their decays."""

    position: Tensor  # (K·B·T,) row of a (sample, position)
    visit: Tensor  # (K·B·T,) row of a (sample, position, route)
    skip: Tensor | None  # (K, 1, T, 1) True where a route takes no step
    x: Tensor  # (K, B, G, R, T, P)
    z: Tensor  # (K, B, G, R, T) before softplus
    delta: Tensor  # (K, B, G, R, T) step size
    B: Tensor  # (K, B, G, 1, T, N)
    C: Tensor  # (K, B, G, 1, T, N)
    E: Tensor  # (K, B, G, R, T, T) decay from step j to step t, 0 where j > t
    since: Tensor  # (K, B, G, R, T, 1) decay from before the chunk to step t
    until: Tensor  # (K, B, G, R, T, 1) decay from step j to the last step


def flatten(x, dt, A, B, C, D, dt_bias, routes, merge) -> Inputs:
    """The operator's arguments, as in `reference.py`, in the form that chunks are read from."""
    dtype, (K, H), G = compute_dtype(x, dt, A, B, C, D, dt_bias), A.shape, B.shape[3]

    def heads(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(dtype).reshape(K, 1, G, H // G, 1)

    rows = len(x) * x.shape[1]
    return Inputs(
        x=x.reshape(rows * (1 if x.dim() == 4 else K), H * x.shape[-1]),
        dt=dt.reshape(rows * K, H),
        A=heads(A),
        B=B.reshape(rows * K, G * B.shape[-1]),
        C=C.reshape(rows * K, G * C.shape[-1]),
        D=None if D is None else heads(D).unsqueeze(-1),
        dt_bias=heads(dt_bias),
        routes=routes.long(),
        length=dt.shape[1],
        x_shared=x.dim() == 4,
        merge=merge,
        all_steps=all_steps(routes, dt.shape[1]),
        grows=bool((A > 0).any()),
    )


def gather(inputs: Inputs, steps: slice, samples: slice) -> Chunk:
    """Read some steps of every route for some samples."""
    routes = inputs.routes[:, steps]
    K, T = routes.shape
    position, visit, skip = places(routes, samples, inputs.length, inputs.all_steps)
    G, R = inputs.A.shape[2:4]

    def read(rows: Tensor, index: Tensor, *shape: int) -> Tensor:
        columns = (
            rows.index_select(0, index)
            .to(inputs.A.dtype)
            .view(K, samples.stop - samples.start, T, -1)
        )
        return by_head(columns, skip, *shape)

    x = read(inputs.x, position if inputs.x_shared else visit, G, R, inputs.x.shape[1] // (G * R))
    z = read(inputs.dt, visit, G, R)
    if inputs.dt_bias is not None:
        z = z + inputs.dt_bias
    if skip is not None:  # delta = 0: the state stays
        z = z.masked_fill(skip[:, :, None, None, :, 0], -math.inf)
    delta = softplus(z)
    B, C = (read(t, visit, G, 1, t.shape[1] // G) for t in (inputs.B, inputs.C))
    return Chunk(position, visit, skip, x, z, delta, B, C, *decays(delta * inputs.A))


def by_head(rows: Tensor, skip: Tensor | None, G: int, R: int, *columns: int) -> Tensor:
    """(K, B, T, ·) with zeros where a route takes no step, as (K, B, G, R, T, ...)."""
    if skip is not None:
        rows = rows.masked_fill_(skip, 0)
    return rows.view(*rows.shape[:3], G, R, *columns).movedim(2, 4).contiguous()


def decays(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E, since and until, from the logarithms (K, B, G, R, T) of each step's decay."""
    a = a.unsqueeze(-1)
    spans = running_sum(a.expand(*a.shape[:-1], a.shape[-2]).tril(-1))  # Σ of steps j < i <= t
    E = spans.exp_().tril_()
    return E, running_sum(a).exp_(), E[..., -1, :].unsqueeze(-1)


def running_sum(t: Tensor) -> Tensor:
    """Sums along the last dimension but one, up to and with each entry, in a fixed order."""
    if t.device.type == "cpu":
        return t.cumsum(-2)
    reach = 1  # torch's strict deterministic mode refuses cumsum on a GPU
    while reach < t.shape[-2]:
        t = torch.cat([t[..., :reach, :], t[..., reach:, :] + t[..., :-reach, :]], dim=-2)
        reach *= 2
    return t


def run(chunk: Chunk, inputs: Inputs, h: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of some steps, and the state after them, from the state (K, B, G, R, N, P) before."""
    u = chunk.delta.unsqueeze(-1) * chunk.x
    out = ((chunk.C @ chunk.B.mT) * chunk.E) @ u
    out.addcmul_(chunk.since, chunk.C @ h)
    if inputs.D is not None:
        out.addcmul_(inputs.D, chunk.x)
    return out, after(chunk, h)


def after(chunk: Chunk, h: Tensor) -> Tensor:
    """The state after some steps, from the one before."""
    u = chunk.until * chunk.delta.unsqueeze(-1) * chunk.x
    return (chunk.B.mT @ u).addcmul_(chunk.since[..., -1:, :], h)


def chunks(inputs: Inputs) -> list[slice]:
    """The steps of the routes, in slices of CHUNK."""
    return cut(slice(0, inputs.routes.shape[1]), CHUNK)


def pieces(inputs: Inputs, chunk: slice) -> list[slice]:
    """A chunk whole; or, where a state may grow, its single steps.

    With A > 0, a decay over many steps may overflow though no state does: infinity times zero.
    """
    return cut(chunk, 1) if inputs.grows else [chunk]


def cut(steps: slice, size: int) -> list[slice]:
    """Some steps, in slices of a size."""
    starts = range(steps.start, steps.stop, size)
    return [slice(start, min(start + size, steps.stop)) for start in starts]


def blocks(inputs: Inputs, batch: int) -> Iterator[slice]:
    """The samples, in slices whose chunks hold about BLOCK elements, or GPU_BLOCK."""
    widest = max(CHUNK * inputs.A.numel(), inputs.x.shape[1] * len(inputs.routes))
    most = BLOCK if inputs.A.device.type == "cpu" else GPU_BLOCK
    size = max(1, most // max(1, CHUNK * widest))
    return (slice(start, min(start + size, batch)) for start in range(0, batch, size))


def forward(x, dt, A, B, C, D, dt_bias, routes, merge) -> tuple[Tensor, Tensor]:
    """Y as in `reference.py`, and the states between chunks, (chunks + 1, K, B, H, N, P)."""
    inputs = flatten(x, dt, A, B, C, D, dt_bias, routes, merge)
    steps = chunks(inputs)
    batch, length, K, H = dt.shape
    (G, N), P = B.shape[3:], x.shape[-1]
    y = inputs.A.new_zeros(batch * length * (1 if merge else K), H * P)
    saved = inputs.A.new_empty(len(steps) + 1, K, batch, G, H // G, N, P)
    for samples in blocks(inputs, batch):
        h = torch.zeros_like(saved[0, :, samples])
        for i, part in enumerate(steps):
            saved[i, :, samples] = h
            for piece in pieces(inputs, part):
                chunk = gather(inputs, piece, samples)
                out, h = run(chunk, inputs, h)
                add(y, chunk.position if merge else chunk.visit, out, chunk.skip)
        saved[-1, :, samples] = h
    shape = (batch, length, H, P) if merge else (batch, length, K, H, P)
    return y.view(shape).to(x.dtype), saved.flatten(3, 4)


def add(sums: Tensor, index: Tensor, t: Tensor, skip: Tensor | None) -> None:
    """Add (K, B, G, R, T, ...) to the rows (rows, ·) that its steps visit."""
    t = t.movedim(4, 2).flatten(3)
    add_rows(sums, index, t if skip is None else t.masked_fill(skip, 0))
