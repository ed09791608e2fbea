"""Checks of the operators' arguments: one clear sentence, naming the first that does not fit."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils.weak import WeakTensorKeyDictionary


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any tensor is, else float32: the type of states and sums."""
    dtypes = {t.dtype for t in tensors if t is not None}
    return torch.float64 if torch.float64 in dtypes else torch.float32


def check_dims(**tensors: tuple[Tensor, tuple[int, ...]]) -> None:
    """Refuse tensors whose number of dimensions is not among those given with each."""
    for name, (tensor, dims) in tensors.items():
        if tensor.dim() not in dims:
            wanted = " or ".join(map(str, dims))
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {wanted} dimensions"
            )


def check_tensors(**tensors: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Refuse tensors of another shape than the one given with each, of integers, or elsewhere.

    Absent tensors (None) fit; the first tensor names the device. Tangents are refused, which torch
    would take for zero in a custom operator.
    """
    first, (like, _) = next(iter(tensors.items()))
    for name, (tensor, shape) in tensors.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.device != like.device:
            raise ValueError(f"{name} is on {tensor.device}, {first} is on {like.device}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}, expected a floating-point dtype")
        if not torch.compiler.is_compiling() and unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{name} has a tangent, and the operator no forward-mode derivative: expected"
                " backward mode, such as torch.autograd.grad"
            )


def check_routes(routes: Tensor, K: int, device: torch.device) -> None:
    """Refuse a route table that is not (K, T) integers on a device."""
    if routes.dim() != 2 or len(routes) != K:
        shape = f"({K}, {routes.shape[-1] if routes.dim() else 'steps'})"
        raise ValueError(f"routes has shape {tuple(routes.shape)}, expected {shape}")
    if routes.device != device:
        raise ValueError(f"routes is on {routes.device}, x is on {device}")
    if routes.is_floating_point() or routes.is_complex() or routes.dtype == torch.bool:
        raise ValueError(f"routes has dtype {routes.dtype}, expected an integer dtype")


class Visits(NamedTuple):
    """What the entries of a route table are like."""

    lowest: int
    highest: int
    once: bool  # whether every route visits every position exactly once


_seen = WeakTensorKeyDictionary()  # table → its version, the length, its visits


def visits(routes: Tensor, length: int) -> Visits:
    """Look at the values of a route table (K, T), once as long as it does not change.

    On a GPU a look waits for everything before it.
    """
    if routes.is_inference():  # keeps no version
        return _look(routes, length)
    version, known_length, known = _seen.get(routes, (None, None, None))
    if (version, known_length) != (routes._version, length):
        known = _look(routes, length)
        _seen[routes] = (routes._version, length, known)
    return known


def _look(routes: Tensor, length: int) -> Visits:
    lowest, highest = (int(v) for v in routes.aminmax())
    full = routes.shape[1] == length and lowest == 0 and highest == length - 1
    counts = torch.zeros(len(routes), length, dtype=torch.bool, device=routes.device)
    once = full and bool(counts.scatter_(1, routes.long(), True).all())
    return Visits(lowest, highest, once)


def all_steps(routes: Tensor, length: int) -> bool:
    """Whether every entry of a route table is a step, none of them -1."""
    return routes.numel() == 0 or visits(routes, length).lowest >= 0


def is_traced(tensor: Tensor) -> bool:
    """Whether values cannot be looked at: a graph is being traced, or there are none (meta)."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return tracing or type(tensor) is not Tensor or tensor.is_meta


def check_positions(routes: Tensor, length: int) -> Visits:
    """Refuse routes that leave the image; looks at values, so it runs only when not tracing."""
    if routes.numel() == 0:
        raise ValueError(f"routes has shape {tuple(routes.shape)}, expected at least one step")
    known = visits(routes, length)
    if known.lowest < -1 or known.highest >= length:
        bad = known.lowest if known.lowest < -1 else known.highest
        raise ValueError(f"routes holds {bad}, expected positions in [0, {length}) or -1")
    return known


def check_permutation(routes: Tensor, length: int, claimed: bool) -> bool:
    """Whether every route visits every position exactly once; refuses a wrong claim that it does.

    While a graph is traced the claim is what is known.
    """
    if is_traced(routes):
        return claimed
    once = check_positions(routes, length).once
    if claimed and not once:
        raise ValueError(
            f"routes visits some of the {length} positions more than once or never, expected"
            " every position once (permutation=True)"
        )
    return once
