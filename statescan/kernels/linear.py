"""Linear layers, on a CPU without a gradient through oneDNN's matrix product.

torch's own CPU path calls MKL, copies the bias into the result first and writes it once more for
the activation. oneDNN, which torch has for convolutions and `torch.compile`, does all in one pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula

ONEDNN = {None: ("none", ""), "gelu": ("gelu", "none")}  # activation → oneDNN's name, variant
ONEDNN_LINEAR = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)

if ONEDNN_LINEAR is not None and ONEDNN_LINEAR not in flop_registry:

    @register_flop_formula(ONEDNN_LINEAR)
    def _flops(x, weight, bias, *activation, out_shape) -> int:
        return 2 * x.numel() * weight[0]


def _fast(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can serve: eager float32 on a CPU, and no gradient to be kept.

    `torch.jit.trace` cannot record its list of scalars.
    """
    return (
        ONEDNN_LINEAR is not None
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None
) -> Tensor:
    """`act(x @ weight.T + bias)`.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,).
        activation: None or "gelu".

    Returns:
        (..., O).
    """
    if activation not in ONEDNN:
        raise ValueError(f"activation is {activation!r}, expected one of {tuple(ONEDNN)}")
    if _fast(x, weight):
        name, variant = ONEDNN[activation]
        return ONEDNN_LINEAR(x, weight, bias, name, [], variant)
    y = F.linear(x, weight, bias)
    return F.gelu(y) if activation else y


class Linear(nn.Linear):
    """`torch.nn.Linear`, run by `linear`."""

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """(..., I) → (..., O)."""
        return linear(x, self.weight, self.bias, activation=activation)
