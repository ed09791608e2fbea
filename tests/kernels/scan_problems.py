"""Random problems for the selective scan, and how results are compared."""

import torch

NAMES = ("x", "dt", "A", "B", "C", "D", "dt_weight", "dt_bias")


def make_inputs(
    batch, length, channels, K, N, rank=None, own_x=False, steps=None, dtype=torch.float64, seed=0
):
    """Random arguments of the operator, routes among them; all floats require gradients."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape, scale=1.0):
        return torch.randn(shape, generator=rng, dtype=torch.float64) * scale

    tensors = {
        "x": randn(batch, length, K, channels) if own_x else randn(batch, length, channels),
        "dt": randn(batch, length, K, rank or channels),
        "A": -torch.rand(K, channels, N, generator=rng, dtype=torch.float64) * 2,
        "B": randn(batch, length, K, N),
        "C": randn(batch, length, K, N),
        "D": randn(K, channels),
        "dt_bias": randn(K, channels),
    }
    if rank:
        tensors["dt_weight"] = randn(K, channels, rank)
    orders = [torch.randperm(length, generator=rng)[: steps or length] for _ in range(K)]
    leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
    return leaves, torch.stack(orders).int()


def run(function, inputs, routes, merge=True, **options):
    """Output and gradients of every input for a fixed random gradient of the output."""
    y = function(**inputs, routes=routes, merge=merge, **options)
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=rng, dtype=torch.float64).to(y)
    leaves = list(inputs.values())
    if y.requires_grad:
        grads = torch.autograd.grad(y, leaves, dy, materialize_grads=True)
    else:  # the definition, where no route takes a step: y depends on no input
        grads = [torch.zeros_like(leaf) for leaf in leaves]
    return {"y": y.detach()} | dict(zip(inputs, grads, strict=True))


def assert_matches(got, want, tolerance):
    for name, value in want.items():
        error = (got[name].double() - value.double()).abs().max()
        scale = value.double().abs().max().clamp_min(1)
        assert error <= tolerance * scale, f"{name}: {error:.1e} of {scale:.1e}"
