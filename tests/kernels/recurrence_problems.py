"""The 2-D recurrences in tests: arguments of every shape, results, and how they are compared."""

import torch

from statescan.kernels.recurrence_2d import (
    scan_2dmamba,
    scan_2dmamba_reference,
    scan_mamba2d,
    scan_mamba2d_reference,
    scan_v2m,
    scan_v2m_reference,
)

# Each operator, its definition, and its arguments by shape: maps, decays, matrices, channels.
MAPS = ("x", "dt", "dt_top", "dt_left", "dt2")
DECAYS = ("A", "A_top", "A_left", "A2")
MATRICES = ("B", "B_top", "B_left", "C", "C2")
OPERATORS = {
    "2dmamba": (scan_2dmamba, scan_2dmamba_reference, "x dt A B C D dt_bias"),
    "mamba2d": (
        scan_mamba2d,
        scan_mamba2d_reference,
        "x dt_top dt_left A_top A_left B_top B_left C D dt_bias_top dt_bias_left",
    ),
    "v2m": (scan_v2m, scan_v2m_reference, "x dt A B dt2 A2 C2 D D2 dt_bias dt_bias2"),
}


def make_inputs(name, batch, H, W, channels, N, dtype=torch.float64, seed=0):
    """Random arguments of an operator, all requiring gradients."""
    rng = torch.Generator().manual_seed(seed)

    def draw(argument):
        if argument in DECAYS:
            return -torch.rand(channels, N, generator=rng, dtype=torch.float64) * 2
        last = N if argument in MATRICES else channels
        shape = (batch, H, W, last) if argument in MAPS + MATRICES else (channels,)
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    return {a: draw(a).to(dtype).requires_grad_() for a in OPERATORS[name][2].split()}


def run(function, inputs):
    """Output and gradients of every input for a fixed random gradient of the output."""
    y = function(**inputs)
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=rng, dtype=torch.float64).to(y.dtype)
    grads = torch.autograd.grad(y, list(inputs.values()), dy, materialize_grads=True)
    return {"y": y.detach()} | dict(zip(inputs, grads, strict=True))
