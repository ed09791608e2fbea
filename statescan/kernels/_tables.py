"""Small integer tensors that calls share: made once a device, so that no call waits for a copy."""

from functools import lru_cache

import torch
from torch import Tensor

from ._arguments import is_traced


def table(values: tuple, like: Tensor) -> Tensor:
    """Nested tuples of integers as an int64 tensor on a tensor's device."""
    if is_traced(like):  # what belongs to a graph must not outlive it
        return torch.tensor(values, device=like.device)
    return _kept_table(values, like.device)


def in_order(length: int, like: Tensor) -> Tensor:
    """One route (1, L) that visits the positions in their order, on a tensor's device."""
    if is_traced(like):
        return torch.arange(length, device=like.device).unsqueeze(0)
    return _kept_order(length, like.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table first needed in inference must serve training too
def _kept_table(values: tuple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _kept_order(length: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device).unsqueeze(0)
