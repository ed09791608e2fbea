"""Time the selective scan against what runs elsewhere without a CUDA extension.

    python benchmarks/selective_scan.py [--threads 1] [--repeat 9] [--json results.json]

Peers, each on permuted copies of the image for every direction:

- loop: Mamba's per-step reference, written from its equations (arXiv 2312.00752, algorithm 2);
- mambapy: its parallel scan in pure torch;
- transformers: the path that its Mamba models take where no kernel is installed.

No time is printed before results and gradients agree with a float64 scan: ours to 1e-5, and the
peers, whose own rounding grows with the length, to 1e-3. Times are medians; ratios within a run
mean more than the milliseconds, which depend on the machine. The two loops keep a gradient as large
as the image for every step, so they run on short scans alone.
"""

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mambapy.pscan import pscan
from torch import Tensor
from transformers.models.mamba import modeling_mamba

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
    "VMamba-T stage 1, 1280x800": Shape(1, 200, 320, 192, "cross", 1),
    "VMamba-T stage 2, 1280x800": Shape(1, 100, 160, 384, "cross", 1),
    "VMamba-T stage 3, 1280x800": Shape(1, 50, 80, 768, "cross", 1),
    "VMamba-T stage 4, 1280x800": Shape(1, 25, 40, 1536, "cross", 1),
}
LONGEST_LOOP = 3200  # steps
Inputs = dict[str, Tensor]
Scan = Callable[[Inputs, Tensor], Tensor]


def along(t: Tensor, routes: Tensor) -> Tensor:
    """(B, L, K, ·) → (B, K, ·, L), each direction along its route: the copies that peers make."""
    t = t.permute(0, 2, 3, 1)
    return t.gather(-1, routes.long()[:, None].expand(t.shape))


def back(y: Tensor, routes: Tensor) -> Tensor:
    """(B, K, C, L) along the routes → (B, L, C), merged."""
    return torch.zeros_like(y).scatter(-1, routes.long()[:, None].expand(y.shape), y).sum(1).mT


def permuted(inputs: Inputs, routes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X and delta (B, K, C, L), B and C (B, K, N, L), along the routes."""
    x, dt, B, C = (inputs[name] for name in ("x", "dt", "B", "C"))
    shared = x.unsqueeze(2).expand(-1, -1, len(routes), -1)
    u, dt, B, C = (along(t, routes) for t in (shared, dt, B, C))
    return u, F.softplus(dt), B, C


def loop(inputs: Inputs, routes: Tensor) -> Tensor:
    """The per-step loop: every direction's channels as channels of one scan."""
    A, D = inputs["A"], inputs["D"]
    K, channels, _ = A.shape
    u, delta, B, C = permuted(inputs, routes)
    u, delta = u.flatten(1, 2), delta.flatten(1, 2)  # (B, K·C, L)
    B, C = (t.repeat_interleave(channels, dim=1) for t in (B, C))  # (B, K·C, N, L)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A.flatten(0, 1)))
    entering = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    h = torch.zeros_like(entering[:, :, 0])
    outputs = []
    for step in range(u.shape[-1]):
        h = decay[:, :, step] * h + entering[:, :, step]
        outputs.append(torch.einsum("bdn,bdn->bd", h, C[..., step]))
    y = torch.stack(outputs, dim=-1) + u * D.flatten()[:, None]
    return back(y.unflatten(1, (K, channels)), routes)


def mambapy(inputs: Inputs, routes: Tensor) -> Tensor:
    """The parallel scan of mambapy for every direction, discretised as in its own models."""
    A, D = inputs["A"], inputs["D"]
    outputs = []
    for k, (u, delta, B, C) in enumerate(
        zip(*(t.unbind(1) for t in permuted(inputs, routes)), strict=True)
    ):
        u, delta, B, C = u.mT, delta.mT.unsqueeze(-1), B.mT, C.mT
        states = pscan(torch.exp(delta * A[k]), delta * B.unsqueeze(2) * u.unsqueeze(-1))
        outputs.append(((states @ C.unsqueeze(-1)).squeeze(3) + D[k] * u).mT)
    return back(torch.stack(outputs, dim=1), routes)


def transformers(inputs: Inputs, routes: Tensor) -> Tensor:
    """The scan of every direction as transformers runs it without kernels."""
    A, D = inputs["A"], inputs["D"]
    scan = modeling_mamba.mamba_selective_scan
    directions = zip(*(t.unbind(1) for t in permuted(inputs, routes)), strict=True)
    outputs = [scan(u, dt, A[k], B, C, D[k]) for k, (u, dt, B, C) in enumerate(directions)]
    return back(torch.stack(outputs, dim=1), routes)


def ours(inputs: Inputs, routes: Tensor) -> Tensor:
    """The library's operator."""
    return selective_scan(**inputs, routes=routes)


PEERS: dict[str, Scan] = {"loop": loop, "mambapy": mambapy, "transformers": transformers}


def peers(shape: Shape) -> dict[str, Scan]:
    """Those that a shape is not too long for."""
    short = shape.H * shape.W <= LONGEST_LOOP
    return PEERS if short else {"mambapy": mambapy}


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
    dy = torch.randn(inputs["x"].shape, generator=torch.Generator().manual_seed(1))
    dy = dy.to(inputs["x"].dtype)
    start = time.perf_counter()
    y = scan(inputs, routes)
    forward = time.perf_counter() - start
    grads = torch.autograd.grad(y, list(inputs.values()), dy)
    return [y.detach(), *grads], forward, time.perf_counter() - start


def exact(inputs: Inputs, routes: Tensor) -> list[Tensor]:
    """Output and gradients of the same numbers in float64."""
    wide = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    return run(lambda given, along: selective_scan(**given, routes=along), wide, routes)[0]


def check(name: str, got: list[Tensor], want: list[Tensor]) -> float:
    """The largest error relative to each tensor's largest value; refuses too large a one."""
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True))
    if not error < (1e-5 if name == "ours" else 1e-3):
        raise SystemExit(f"{name} is off by {error:.1e}: its times mean nothing")
    return error


def measure(shape: Shape, repeat: int) -> dict:
    """Times of all scans on one shape, forward and with backward, in ms, after comparing results.

    Each scan runs several times in a row, ours before and after each peer, so that no side has
    colder caches or a quieter machine; a peer that takes more than a second runs once.
    """
    inputs, routes = make_inputs(shape)
    want = exact(inputs, routes)
    times: dict[str, list] = {"ours": []}
    row = {"error": {"ours": check("ours", run(ours, inputs, routes)[0], want)}}
    row |= {"ms": {}, "ratio": {}}

    def repeated(scan: Scan) -> list:
        return [run(scan, inputs, routes)[1:] for _ in range(repeat)]

    for name, peer in peers(shape).items():
        got, *first = run(peer, inputs, routes)
        row["error"][name] = check(name, got, want)
        times[name] = [first] if first[1] > 1 else repeated(peer)
        times["ours"] += repeated(ours)
    for name, pairs in times.items():
        row["ms"][name] = [1e3 * median(column) for column in zip(*pairs, strict=True)]
        row["ratio"][name] = [
            a / b for a, b in zip(row["ms"][name], row["ms"]["ours"], strict=True)
        ]
    return row


def print_row(name: str, row: dict) -> None:
    """One line of the table for ours and for each peer."""
    for i, (scan, error) in enumerate(row["error"].items()):
        (forward, both), (rf, rb) = row["ms"][scan], row["ratio"][scan]
        print(
            f"{'' if i else name:27} {scan:12} {forward:9.1f} {both:9.1f} {rf:7.1f}x {rb:7.1f}x"
            f"   {error:.0e}"
        )


def main() -> None:
    """Print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=9, help="runs of ours, and of fast peers")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--streaming", action="store_true", help="without the C kernel")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    args = parser.parse_args()
    if args.streaming:
        _c.library = lambda: None
    torch.set_num_threads(args.threads)
    gc.disable()  # as timeit does: collections would fall into some runs
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": args.threads,
        "dtype": "float32",
        "backend": "streaming torch" if args.streaming else backends()["selective_scan"]["cpu"],
        "shapes": {},
    }
    print(", ".join(f"{k} {v}" for k, v in results.items() if k != "shapes"))
    print(f"{'milliseconds':40}   forward  with backward; ratios to ours; error")
    for name, shape in SHAPES.items():
        if args.only in name:
            results["shapes"][name] = row = measure(shape, args.repeat)
            print_row(name, row)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
