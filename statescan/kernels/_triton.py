"""Triton: whether it can serve a device, and how kernels are launched.

Triton is imported where it is needed, never by `import statescan`: it has no build for some
platforms, and everything runs without it.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)  # of a kernel's inputs
FOUND = find_spec("triton") is not None  # a constant where graphs are traced


def installed() -> bool:
    """Whether Triton is there to import."""
    return FOUND


def serves(*tensors: Tensor | None) -> bool:
    """Whether Triton kernels can take these tensors: on a GPU, none in float64."""
    given = [t for t in tensors if t is not None]
    return given[0].is_cuda and installed() and all(t.dtype in TYPES for t in given)


def describe(device: torch.device, otherwise: str) -> str:
    """What serves an operator that has a Triton kernel on a device, and why."""
    if device.type != "cuda":
        return otherwise
    return "Triton kernel" if installed() else f"{otherwise}: triton is not installed"


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; one where it is not a GPU, as in the interpreter."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def products() -> str:
    """How Triton multiplies float32 matrices: NVIDIA's tensor cores in three products of TF32."""
    return "ieee" if torch.version.hip else "tf32x3"


def with_unit_stride(t: Tensor) -> Tensor:
    """A tensor as it is where its last stride is 1, else a contiguous copy."""
    return t if t.stride(-1) == 1 else t.contiguous()


def launch(kernel, grid: tuple[int, ...], first: Tensor, *arguments, **options) -> None:
    """Run a kernel on a grid of programs, on its first tensor's device; no programs, no work."""
    if all(grid):
        with torch.cuda.device_of(first):
            kernel[grid](first, *arguments, **options)
