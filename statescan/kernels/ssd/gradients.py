"""The backward pass of `chunked.py`: from the saved states, chunk by chunk from the last.

`dy` is the gradient of y, and so on; `dh` is what later steps hand back to a state. Shapes are
those of `chunked.py`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .chunked import (
    Chunk,
    Inputs,
    add,
    after,
    blocks,
    by_head,
    chunks,
    flatten,
    gather,
    pieces,
    running_sum,
)


class Gradients(NamedTuple):
    """Sums that the backward pass adds to; rows as in `Inputs`, in the compute dtype."""

    x: Tensor  # (B·L, H·P) or (B·L·K, H·P)
    dt: Tensor  # (B·L·K, H)
    A: Tensor  # (K, 1, G, R, 1)
    B: Tensor  # (B·L·K, G·N)
    C: Tensor  # (B·L·K, G·N)
    D: Tensor  # as A
    dt_bias: Tensor  # as A

    @classmethod
    def zeros(cls, i: Inputs) -> "Gradients":
        """Start at zero."""
        return cls(*(i.A.new_zeros(t.shape) for t in (i.x, i.dt, i.A, i.B, i.C, i.A, i.A)))


def backward(dy, saved, x, dt, A, B, C, D, dt_bias, routes, merge) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D and dt_bias; None for those not given."""
    inputs = flatten(x, dt, A, B, C, D, dt_bias, routes, merge)
    dy = dy.reshape(-1, inputs.x.shape[1])
    saved = saved.unflatten(3, inputs.A.shape[2:4])
    grads = Gradients.zeros(inputs)
    for samples in blocks(inputs, len(x)):
        dh = torch.zeros_like(saved[0, :, samples])
        for i, steps in reversed(list(enumerate(chunks(inputs)))):
            dh = backward_steps(inputs, steps, samples, dy, saved[i, :, samples], dh, grads)
    given = (x, dt, A, B, C, D, dt_bias)
    return tuple(
        None if t is None else g.reshape(t.shape).to(t.dtype).contiguous()
        for g, t in zip(grads, given, strict=True)
    )


def backward_steps(
    inputs: Inputs,
    steps: slice,
    samples: slice,
    dy: Tensor,
    h: Tensor,
    dh: Tensor,
    grads: Gradients,
) -> Tensor:
    """Add the gradients of some steps, which start in state h; return those of that state."""
    parts = pieces(inputs, steps)
    states = [h]
    for part in parts[:-1]:
        states.append(after(gather(inputs, part, samples), states[-1]))
    for part, h in reversed(list(zip(parts, states, strict=True))):
        chunk = gather(inputs, part, samples)
        dh = backward_chunk(chunk, inputs, read(dy, chunk, inputs), h, dh, grads)
    return dh


def read(dy: Tensor, chunk: Chunk, inputs: Inputs) -> Tensor:
    """The gradient of a chunk's outputs, (K, B, G, R, T, P)."""
    K, batch, G, R, T, P = chunk.x.shape
    rows = dy.index_select(0, chunk.position if inputs.merge else chunk.visit)
    return by_head(rows.to(chunk.x.dtype).view(K, batch, T, -1), chunk.skip, G, R, P)


def backward_chunk(
    chunk: Chunk, inputs: Inputs, dy: Tensor, h: Tensor, dh: Tensor, grads: Gradients
) -> Tensor:
    """Add the gradients of one chunk, which starts in state h; return those of that state."""
    u = chunk.delta.unsqueeze(-1) * chunk.x
    dy0 = chunk.since * dy  # decayed back to the chunk's first state
    later = (chunk.B @ dh).mul_(chunk.until)  # what later steps hand back to u
    S = chunk.C @ chunk.B.mT
    dS = (dy @ u.mT).mul_(chunk.E)
    du = (S * chunk.E).mT @ dy + later

    group = dS.sum(3, keepdim=True)
    dC = (dy0 @ h.mT).sum(3, keepdim=True) + group @ chunk.B
    dB = (chunk.until * u @ dh.mT).sum(3, keepdim=True) + group.mT @ chunk.C
    add(grads.C, chunk.visit, dC, chunk.skip)
    add(grads.B, chunk.visit, dB, chunk.skip)

    kept = dh * chunk.since[..., -1:, :]
    first = (dy0 * (chunk.C @ h)).sum(-1)
    first[..., -1] += (kept * h).sum((-1, -2))
    da = backward_logs(dS.mul_(S), first, (later * u).sum(-1))
    backward_rows(chunk, inputs, dy, du, da, grads)
    return kept.add_(chunk.C.mT @ dy0)


def backward_logs(spans: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Gradient of each step's log decay, from those of the sums of log decays.

    Args:
        spans: (..., T, T) of the sum over the steps after j up to t.
        first: (..., T) of the sum over the steps up to t.
        last: (..., T) of the sum over the steps after j.

    Step i is in every span with j < i <= t.
    """
    spans[..., -1, :] += last
    to_the_end = running_sum(spans.flip(-2)).flip(-2)  # Σ over t >= i
    to_the_first = running_sum(first.flip(-1).unsqueeze(-1)).squeeze(-1).flip(-1)
    return to_the_end.tril_(-1).sum(-1).add_(to_the_first)


def backward_rows(
    chunk: Chunk, inputs: Inputs, dy: Tensor, du: Tensor, da: Tensor, grads: Gradients
) -> None:
    """Add the gradients of x, dt and the parameters, from those of u = delta x and a = delta A."""
    dx = chunk.delta.unsqueeze(-1) * du
    if inputs.D is not None:
        dx.addcmul_(inputs.D, dy)
        grads.D.add_((dy * chunk.x).sum(-1).sum((1, 4), keepdim=True))
    add(grads.x, chunk.position if inputs.x_shared else chunk.visit, dx, chunk.skip)
    ddelta = (du * chunk.x).sum(-1).addcmul_(da, inputs.A)
    dz = ddelta.mul_(torch.sigmoid(chunk.z))
    add(grads.dt, chunk.visit, dz, chunk.skip)
    grads.A.add_((da * chunk.delta).sum((1, 4), keepdim=True))
    grads.dt_bias.add_(dz.sum((1, 4), keepdim=True))
