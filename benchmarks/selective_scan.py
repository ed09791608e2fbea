"""Time the selective scan against the usual per-step loop, after checking that they agree.

    python benchmarks/selective_scan.py [--threads 1] [--repeat 5] [--json results.json]

The loop is what Mamba repositories fall back to where their CUDA extension is missing, written
from Mamba's equations (arXiv 2312.00752, algorithm 2): permuted copies of the image for each
direction, all decays at once, then one step after the other. Times are medians; ratios within a
run mean more than the milliseconds, which depend on the machine.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from statescan.kernels import _c, backends, selective_scan
from statescan.scans.routes import resolve_routes, route_table


class Shape(NamedTuple):
    """A named problem: batch, height, width, channels, routes (a set's name), states."""

    batch: int
    H: int
    W: int
    channels: int
    routes: str
    N: int


SHAPES = {
    "VMamba-T stage 1, 224 px": Shape(1, 56, 56, 192, "cross", 1),
    "VMamba-T stage 2, 224 px": Shape(1, 28, 28, 384, "cross", 1),
    "VMamba-T stage 3, 224 px": Shape(1, 14, 14, 768, "cross", 1),
    "VMamba-T stage 4, 224 px": Shape(1, 7, 7, 1536, "cross", 1),
    "Vim-T, 224 px": Shape(1, 14, 14, 384, "raster", 16),
}
Inputs = dict[str, Tensor]
Scan = Callable[[Inputs, Tensor], Tensor]


def loop(inputs: Inputs, routes: Tensor) -> Tensor:
    """The per-step loop on permuted copies: every direction's channels as channels of one scan."""
    x, dt, A, B, C, D = (inputs[name] for name in ("x", "dt", "A", "B", "C", "D"))
    K, channels, _ = A.shape
    order = routes.long()[:, None]  # (K, 1, L)

    def permuted(t: Tensor) -> Tensor:  # (B, L, K, ·) → (B, K, ·, L), each along its route
        t = t.permute(0, 2, 3, 1)
        return t.gather(-1, order.expand(t.shape))

    u = permuted(x.unsqueeze(2).expand(-1, -1, K, -1)).flatten(1, 2)  # (B, K·C, L)
    delta = F.softplus(permuted(dt)).flatten(1, 2)
    B, C = (permuted(t).repeat_interleave(channels, dim=1) for t in (B, C))  # (B, K·C, N, L)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A.flatten(0, 1)))
    entering = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    h = torch.zeros_like(entering[:, :, 0])
    outputs = []
    for step in range(u.shape[-1]):
        h = decay[:, :, step] * h + entering[:, :, step]
        outputs.append(torch.einsum("bdn,bdn->bd", h, C[..., step]))
    y = torch.stack(outputs, dim=-1) + u * D.flatten()[:, None]
    y = y.unflatten(1, (K, channels))
    return torch.zeros_like(y).scatter(-1, order.expand(y.shape), y).sum(1).mT


def ours(inputs: Inputs, routes: Tensor) -> Tensor:
    """The library's operator."""
    return selective_scan(**inputs, routes=routes)


def make_inputs(shape: Shape) -> tuple[Inputs, Tensor]:
    """Random inputs that require gradients, and the route table."""
    routes = route_table(resolve_routes(shape.routes), shape.H, shape.W)
    K, L = routes.shape
    rng = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn(shape.batch, L, shape.channels, generator=rng),
        "dt": torch.randn(shape.batch, L, K, shape.channels, generator=rng) - 2,
        "A": -torch.rand(K, shape.channels, shape.N, generator=rng) * shape.N,
        "B": torch.randn(shape.batch, L, K, shape.N, generator=rng),
        "C": torch.randn(shape.batch, L, K, shape.N, generator=rng),
        "D": torch.ones(K, shape.channels),
    }
    return {name: t.requires_grad_() for name, t in inputs.items()}, routes


def run(scan: Scan, inputs: Inputs, routes: Tensor) -> tuple[list[Tensor], float, float]:
    """Output and gradients, seconds of the forward pass, seconds of forward and backward."""
    start = time.perf_counter()
    y = scan(inputs, routes)
    forward = time.perf_counter() - start
    grads = torch.autograd.grad(y.square().sum(), list(inputs.values()))
    return [y.detach(), *grads], forward, time.perf_counter() - start


def check(got: list[Tensor], want: list[Tensor]) -> float:
    """The largest error relative to each tensor's largest value; refuses more than 1e-4."""
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True))
    if not error < 1e-4:
        raise SystemExit(f"the scans disagree by {error:.1e}: their times mean nothing")
    return error


def measure(shape: Shape, repeat: int) -> dict:
    """Times of both scans on one shape, in milliseconds, after comparing their results."""
    inputs, routes = make_inputs(shape)
    want, *loop_times = run(loop, inputs, routes)
    error = check(run(ours, inputs, routes)[0], want)
    timed = [run(ours, inputs, routes)[1:] for _ in range(repeat)]
    our_times = [median(column) for column in zip(*timed, strict=True)]
    return {
        "error": error,
        "loop_ms": [1e3 * t for t in loop_times],
        "ours_ms": [1e3 * t for t in our_times],
        "ratio": [a / b for a, b in zip(loop_times, our_times, strict=True)],
    }


def main() -> None:
    """Print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="runs of ours; the loop runs once")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--streaming", action="store_true", help="without the C kernel")
    args = parser.parse_args()
    if args.streaming:
        _c.library = lambda: None
    torch.set_num_threads(args.threads)
    results = {"threads": args.threads, "torch": torch.__version__, "cpu": platform.machine()}
    backend = "streaming torch" if args.streaming else backends()["selective_scan"]["cpu"]
    results["backend"] = backend
    print(
        f"{backend}; float32, {args.threads} thread(s); milliseconds forward / forward + backward"
    )
    for name, shape in SHAPES.items():
        row = results[name] = measure(shape, args.repeat)
        (lf, lb), (of, ob), (rf, rb) = row["loop_ms"], row["ours_ms"], row["ratio"]
        print(
            f"{name:26} loop {lf:8.1f} / {lb:8.1f}   ours {of:6.1f} / {ob:6.1f}"
            f"   {rf:5.1f}x / {rb:6.1f}x   error {row['error']:.0e}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
