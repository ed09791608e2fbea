"""The selective scan in pure torch, streamed: the path that works everywhere.

Time is cut into chunks of `CHUNK` steps. Inside a chunk everything but the recurrence itself is
one vectorised operation, and the recurrence is one in-place multiply-add a step. Only the state
before each chunk is kept; the backward pass recomputes the rest chunk by chunk. Decays are only
ever multiplied into a state, never divided by, so no product can overflow.

Symbols and shapes are those of `reference.py`. Arrays of a chunk are (K, B, T, C) or, with
states, (K, B, T, N, C), with size 1 where a symbol does not vary.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._arguments import all_steps, compute_dtype

CHUNK = 64  # steps between two saved states
BLOCK = 2**18  # elements of a chunk's states: enough to hide dispatch, few enough for caches
GPU_BLOCK = 2**24  # fills a GPU

LOG2E = math.log2(math.e)


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), accurate at both ends, in under half the time torch's takes on a CPU.

    `log1p(u) = log(w) + (u - (w - 1)) / w` with `w = fl(1 + u)` restores what rounding w lost.
    """
    u = torch.exp2(z.abs().mul_(-LOG2E))
    w = u + 1
    lost = u.sub_(w - 1).div_(w)
    return w.log_().add_(lost).add_(z.clamp_min(0))


class Inputs(NamedTuple):
    """The operator's inputs, one row for each (sample, position) or (sample, position, route)."""

    x: Tensor  # (B·L, C) shared by the routes, or (B·L·K, C)
    dt: Tensor  # (B·L·K, C or R)
    A: Tensor  # (K, 1, 1, N, C)
    B: Tensor  # (B·L·K, N)
    C: Tensor  # (B·L·K, N)
    D: Tensor  # (K, 1, 1, C)
    dt_weight: Tensor | None  # (K, R, C)
    dt_bias: Tensor  # (K, 1, 1, C)
    routes: Tensor  # (K, T)
    length: int
    x_shared: bool
    all_steps: bool  # whether no route has a step that is none


class Chunk(NamedTuple):
    """What one chunk of steps reads, gathered along the routes, in the compute dtype."""

    position: Tensor  # (K·B·T,) row of a (sample, position)
    visit: Tensor  # (K·B·T,) row of a (sample, position, route)
    skip: Tensor | None  # (K, 1, T, 1) True where a route takes no step
    x: Tensor  # (K, B, T, C)
    dt: Tensor  # (K, B, T, C or R) as given
    z: Tensor  # (K, B, T, C) before softplus
    delta: Tensor  # (K, B, T, C) step size
    B: Tensor  # (K, B, T, N, 1)
    C: Tensor  # (K, B, T, N, 1)
    a: Tensor  # (K, B, T, N, C) decay


def flatten(x, dt, A, B, C, D, dt_weight, dt_bias, routes) -> Inputs:
    """The operator's arguments, as in `reference.py`, in the form that chunks are read from."""
    dtype = compute_dtype(x, dt, A, B, C, D, dt_weight, dt_bias)
    return Inputs(
        x=x.reshape(-1, x.shape[-1]),
        dt=dt.reshape(-1, dt.shape[-1]),
        A=A.to(dtype).mT.contiguous()[:, None, None],
        B=B.reshape(-1, B.shape[-1]),
        C=C.reshape(-1, C.shape[-1]),
        D=D.to(dtype)[:, None, None],
        dt_weight=None if dt_weight is None else dt_weight.to(dtype).mT,
        dt_bias=dt_bias.to(dtype)[:, None, None],
        routes=routes.long(),
        length=dt.shape[1],
        x_shared=x.dim() == 3,
        all_steps=all_steps(routes, dt.shape[1]),
    )


def places(
    routes: Tensor, samples: slice, length: int, all_steps: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Where steps (K, T) of the routes read for some samples.

    Returns the row of each (sample, position), (K·B·T,); the row of each (sample, position, route),
    (K·B·T,); and a mask (K, 1, T, 1) of the steps that are none, unless all are steps.
    """
    K, routes = len(routes), routes[:, None]
    sample = torch.arange(samples.start, samples.stop, device=routes.device)[:, None]
    position = sample * length + routes.clamp_min(0)
    visit = position * K + torch.arange(K, device=routes.device)[:, None, None]
    return position.flatten(), visit.flatten(), None if all_steps else routes[..., None] < 0


def gather(inputs: Inputs, steps: slice, samples: slice) -> Chunk:
    """Read some steps of every route for some samples."""
    routes = inputs.routes[:, steps]
    K, T = routes.shape
    position, visit, skip = places(routes, samples, inputs.length, inputs.all_steps)

    def read(rows: Tensor, index: Tensor) -> Tensor:
        rows = rows.index_select(0, index).to(inputs.A.dtype)
        return rows.view(K, samples.stop - samples.start, T, rows.shape[-1])

    x = read(inputs.x, position if inputs.x_shared else visit)
    dt = read(inputs.dt, visit)
    z = before_softplus(dt, inputs, skip)
    delta = softplus(z)
    a = torch.exp2(delta.unsqueeze(3) * (inputs.A * LOG2E))
    B, C = (read(rows, visit).unsqueeze(-1) for rows in (inputs.B, inputs.C))
    return Chunk(position, visit, skip, x, dt, z, delta, B, C, a)


def before_softplus(dt: Tensor, inputs: Inputs, skip: Tensor | None) -> Tensor:
    """Dt (K, B, T, C or R) expanded to C channels, with its bias; -inf where there is no step."""
    if inputs.dt_weight is not None:
        dt = torch.bmm(dt.flatten(1, 2), inputs.dt_weight).unflatten(1, dt.shape[1:3])
    z = dt + inputs.dt_bias
    return z if skip is None else z.masked_fill_(skip, -math.inf)  # delta = 0: the state stays


def run(chunk: Chunk, h: Tensor) -> Tensor:
    """States of a chunk after each step, from the state h (K, B, N, C) before it."""
    states = (chunk.delta * chunk.x).unsqueeze(3) * chunk.B
    for a, state in zip(chunk.a.unbind(2), states.unbind(2), strict=True):
        h = state.addcmul_(a, h)
    return states


def run_back(chunk: Chunk, dy: Tensor, carry: Tensor) -> Tensor:
    """Gradients of a chunk's states, from what later steps hand back to its last state."""
    grads = dy.unsqueeze(3) * chunk.C
    a, g = chunk.a.unbind(2), grads.unbind(2)
    g[-1].add_(carry)
    for t in range(len(g) - 2, -1, -1):
        g[t].addcmul_(a[t + 1], g[t + 1])
    return grads


def sum_states(t: Tensor) -> Tensor:
    """(K, B, T, N, C) summed over N."""
    return t.squeeze(3) if t.shape[3] == 1 else t.sum(3)


def add_rows(out: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add rows (K, B, T, ·) to out (rows, ·) at index, in a fixed order on every device."""
    rows = rows.reshape(len(index), -1)
    if out.device.type == "cpu":
        out.index_add_(0, index, rows)
    else:  # index_add_ uses atomics there; an accumulating index_put_ sorts
        out.index_put_((index,), rows, accumulate=True)


def chunks(inputs: Inputs) -> list[slice]:
    """The steps of the routes, in slices of CHUNK."""
    T = inputs.routes.shape[1]
    return [slice(start, min(start + CHUNK, T)) for start in range(0, T, CHUNK)]


def blocks(inputs: Inputs) -> Iterator[slice]:
    """The samples, in slices whose chunks hold about BLOCK elements, or GPU_BLOCK."""
    batch = len(inputs.dt) // (inputs.length * len(inputs.routes))
    most = BLOCK if inputs.A.device.type == "cpu" else GPU_BLOCK
    size = max(1, most // (CHUNK * inputs.A.numel()))
    return (slice(start, min(start + size, batch)) for start in range(0, batch, size))


def forward(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once) -> tuple[Tensor, Tensor]:
    """Y as in `reference.py`, and the state before each chunk, (chunks, K, B, N, C)."""
    inputs = flatten(x, dt, A, B, C, D, dt_weight, dt_bias, routes)
    steps = chunks(inputs)
    batch, length, K, _ = dt.shape
    channels, N = A.shape[1:]
    y = inputs.A.new_zeros(batch * length * (1 if merge else K), channels)
    saved = inputs.A.new_empty(len(steps) + 1, K, batch, N, channels)
    for samples in blocks(inputs):
        h = torch.zeros_like(saved[0, :, samples])
        for i, part in enumerate(steps):
            saved[i, :, samples] = h
            chunk = gather(inputs, part, samples)
            states = run(chunk, h)
            h = states[:, :, -1].clone()
            out = sum_states(states.mul_(chunk.C)).addcmul_(inputs.D, chunk.x)
            if chunk.skip is not None:
                out.masked_fill_(chunk.skip, 0)
            add_rows(y, chunk.position if merge else chunk.visit, out)
        saved[-1, :, samples] = h
    shape = (batch, length, channels) if merge else (batch, length, K, channels)
    return y.view(shape).to(x.dtype), saved


class Gradients(NamedTuple):
    """Sums that the backward pass adds to; rows as in `Inputs`, in the compute dtype."""

    x: Tensor  # (B·L, C) or (B·L·K, C)
    dt: Tensor  # (B·L·K, C or R)
    A: Tensor  # (K, N, C)
    B: Tensor  # (B·L·K, N)
    C: Tensor  # (B·L·K, N)
    D: Tensor  # (K, C)
    dt_weight: Tensor | None  # (K, R, C)
    dt_bias: Tensor  # (K, C)

    @classmethod
    def zeros(cls, inputs: Inputs) -> "Gradients":
        """Start at zero."""
        zeros = lambda t: None if t is None else inputs.A.new_zeros(t.shape)  # noqa: E731
        per_route = (t[:, 0, 0] for t in (inputs.A, inputs.D, inputs.dt_bias))
        A, D, dt_bias = map(zeros, per_route)
        rows = [zeros(t) for t in (inputs.x, inputs.dt, inputs.B, inputs.C)]
        return cls(rows[0], rows[1], A, rows[2], rows[3], D, zeros(inputs.dt_weight), dt_bias)


def backward(
    dy, saved, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, dt_weight and dt_bias, each in its argument's form."""
    inputs = flatten(x, dt, A, B, C, D, dt_weight, dt_bias, routes)
    dy = dy.reshape(-1, dy.shape[-1])
    grads = Gradients.zeros(inputs)
    for samples in blocks(inputs):
        carry = torch.zeros_like(saved[0, :, samples])
        for i, part in reversed(list(enumerate(chunks(inputs)))):
            chunk = gather(inputs, part, samples)
            carry = backward_chunk(chunk, inputs, dy, saved[i, :, samples], carry, merge, grads)
    given = (x, dt, A, B, C, D, dt_weight, dt_bias)
    columns = grads._replace(
        A=grads.A.mT, dt_weight=None if dt_weight is None else grads.dt_weight.mT
    )
    return tuple(
        None if t is None else g.reshape(t.shape).to(t.dtype).contiguous()
        for g, t in zip(columns, given, strict=True)
    )


def backward_chunk(
    chunk: Chunk,
    inputs: Inputs,
    dy: Tensor,
    h: Tensor,
    carry: Tensor,
    merge: bool,
    grads: Gradients,
) -> Tensor:
    """Add the gradients of one chunk, which starts in state h; return those of that state."""
    dy = dy.index_select(0, chunk.position if merge else chunk.visit).to(h.dtype).view_as(chunk.x)
    if chunk.skip is not None:
        dy.masked_fill_(chunk.skip, 0)
    states = run(chunk, h)
    g = run_back(chunk, dy, carry)
    grads.D.add_((dy * chunk.x).sum((1, 2)))
    add_rows(grads.C, chunk.visit, (states * dy.unsqueeze(3)).sum(-1))
    add_rows(grads.B, chunk.visit, (g * (chunk.delta * chunk.x).unsqueeze(3)).sum(-1))
    gB = sum_states(g * chunk.B)
    dx = (gB * chunk.delta).addcmul_(dy, inputs.D)
    add_rows(grads.x, chunk.position if inputs.x_shared else chunk.visit, dx)

    decayed = g.mul_(chunk.a)  # gradient of a·h[t-1] times a
    carry = decayed[:, :, 0].clone()
    decayed[:, :, 0].mul_(h)
    decayed[:, :, 1:].mul_(states[:, :, :-1])
    grads.A.add_((decayed * chunk.delta.unsqueeze(3)).sum((1, 2)))
    ddelta = sum_states(decayed.mul_(inputs.A)).addcmul_(gB, chunk.x)
    backward_delta(chunk, inputs, ddelta.mul_(torch.sigmoid(chunk.z)), grads)
    return carry


def backward_delta(chunk: Chunk, inputs: Inputs, dz: Tensor, grads: Gradients) -> None:
    """Add the gradients of dt, its weight and its bias, from those before softplus."""
    grads.dt_bias.add_(dz.sum((1, 2)))
    if inputs.dt_weight is not None:
        dz = dz.flatten(1, 2)
        grads.dt_weight.baddbmm_(chunk.dt.flatten(1, 2).mT, dz)
        dz = torch.bmm(dz, inputs.dt_weight.mT)
    add_rows(grads.dt, chunk.visit, dz)
