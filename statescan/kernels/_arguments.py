"""Checks of the operators' arguments: one clear sentence, naming the first that does not fit."""

import torch
from torch import Tensor


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is, else float32: the type of states and sums."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


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

    Absent tensors (None) fit; the first tensor names the device.
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


def check_routes(routes: Tensor, K: int, device: torch.device) -> None:
    """Refuse a route table that is not (K, T) integers on a device."""
    if routes.dim() != 2 or len(routes) != K:
        shape = f"({K}, {routes.shape[-1] if routes.dim() else 'steps'})"
        raise ValueError(f"routes has shape {tuple(routes.shape)}, expected {shape}")
    if routes.device != device:
        raise ValueError(f"routes is on {routes.device}, x is on {device}")
    if routes.is_floating_point() or routes.is_complex() or routes.dtype == torch.bool:
        raise ValueError(f"routes has dtype {routes.dtype}, expected an integer dtype")


def check_positions(routes: Tensor, length: int) -> None:
    """Refuse routes that leave the image; looks at values, so it runs only when not tracing."""
    if routes.numel() == 0:
        raise ValueError(f"routes has shape {tuple(routes.shape)}, expected at least one step")
    low, high = (int(v) for v in routes.aminmax())
    if low < -1 or high >= length:
        bad = low if low < -1 else high
        raise ValueError(f"routes holds {bad}, expected positions in [0, {length}) or -1")
