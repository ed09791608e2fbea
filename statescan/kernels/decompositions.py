"""The operators taken apart into torch's own, for programs that are to run without this library."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .dwconv_silu.op import composed as _dwconv_silu
from .merge_norm.op import composed as _merge_norm
from .noncausal_ssd import aten as _noncausal_ssd
from .recurrence_2d import aten as _recurrence_2d
from .selective_scan import aten as _selective_scan
from .ssd import aten as _ssd
from .state_fusion import aten as _state_fusion


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """A table that takes this library's operators apart into torch's own.

    For an exported program: `program.run_decompositions(statescan.decompositions())` runs without
    this library, in whatever runs graphs of torch, and `torch.onnx.export` takes it. Recurrences
    become torch's `scan`, in ONNX the operator Scan, of any number of steps; they are slower than
    the kernels here. Backward passes are not taken apart: a program with one is refused.

    Returns:
        A function for each operator overload, as `run_decompositions` takes it.
    """
    functions = {
        "dwconv_silu": _dwconv_silu,
        "merge_norm": _merge_norm_unsaved,
        "noncausal_ssd": _noncausal_ssd.forward,
        "scan_2dmamba": _recurrence_2d.scan_2dmamba,
        "scan_mamba2d": _recurrence_2d.scan_mamba2d,
        "selective_scan": _selective_scan.forward,
        "ssd": _ssd.forward,
        "tap_sum": _state_fusion.forward,
    }
    functions |= {f"{name}_backward": partial(_refuse, name) for name in functions}
    return {getattr(torch.ops.statescan, name).default: f for name, f in functions.items()}


def _merge_norm_unsaved(y, weight, bias, gate, eps, save) -> tuple[Tensor, Tensor]:
    """As the operator, but that the sum, which only a backward pass reads, is empty."""
    out = _merge_norm(y, weight, bias, gate, eps)
    return out, y.new_empty(out.shape if save else 0)


def _refuse(name: str, *arguments, **options) -> None:
    """Stop where a backward pass is to be taken apart."""
    raise ValueError(f"the program has the backward pass of {name}, expected forward passes alone")
