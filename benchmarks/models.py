"""Time whole models against timm's, from 224 to 2048 pixels: time, peak memory, growth.

    python benchmarks/models.py [--threads 1] [--sizes 224 512 1024 2048] [--json results.json]

One image of float32, inference at every size and forward with backward at the smallest. The models
take turns, so that none has a quieter machine, and times are medians; ratios within a run mean
more than the seconds. Our output is compared with the pure-torch scan's before its time counts.
Peak memory is what a new process takes for its first inference beyond what it had with the weights;
the growth exponents are slopes of log time and log memory over log pixels.
"""

import argparse
import copy
import json
import math
import multiprocessing
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import timm
import torch
from torch import Tensor, nn

from statescan.kernels import _c, backends

OURS = "vmamba_tiny_s1l8"
PEERS = ("swin_tiny_patch4_window7_224", "convnext_tiny", "vit_small_patch16_224")


def build(name: str, size: int) -> nn.Module:
    """A model for square images of a size; those with tables for one size get them for this."""
    torch.manual_seed(0)
    sized = {"img_size": size} if name.startswith(("swin", "vit")) else {}
    return timm.create_model(name, **sized).eval()


def check(name: str, model: nn.Module, x: Tensor) -> float:
    """Largest difference to the pure-torch scan, relative to the largest logit.

    Scan-route attention multiplies rounding: more than 1e-3 is accepted if it is rounding, that
    is, if the same comparison in float64 leaves nothing of it.
    """
    error = difference(model, x)
    if not error < 1e-3 and not difference(copy.deepcopy(model).double(), x.double()) < 1e-9:
        raise SystemExit(f"{name} is off by {error:.1e}: its times mean nothing")
    return error


def difference(model: nn.Module, x: Tensor) -> float:
    """Largest difference of two outputs, with our scans and torch's, relative to the largest."""
    with torch.inference_mode():
        got = model(x)
        with mock.patch.object(_c, "library", return_value=None):
            want = model(x)
    return float((got - want).abs().max() / want.abs().max())


def infer(model: nn.Module, x: Tensor) -> float:
    """Seconds of one inference."""
    with torch.inference_mode():
        start = time.perf_counter()
        model(x)
        return time.perf_counter() - start


def train(model: nn.Module, x: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    model(x).sum().backward()
    return time.perf_counter() - start


def take_turns(run, models: dict[str, nn.Module], x: Tensor, seconds: float) -> dict[str, float]:
    """Median seconds of each model, after one round to warm up unless that took long."""
    rounds = [{name: run(model, x) for name, model in models.items()}]
    spent = sum(rounds[0].values())
    for _ in range(min(15, int(seconds / spent))):
        rounds.append({name: run(model, x) for name, model in models.items()})
    kept = rounds[1:] or rounds
    return {name: median(r[name] for r in kept) for name in models}


def resident(what: str) -> int:
    """Resident memory of this process in KiB: VmRSS now, VmHWM at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _peak(queue, name: str, size: int) -> None:
    torch.set_num_threads(1)
    model, x = build(name, size), torch.randn(1, 3, size, size)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the model
    before = resident("VmRSS")
    infer(model, x)
    queue.put(resident("VmHWM") - before)


def peak_memory(name: str, size: int) -> float:
    """MiB that the first inference of a new process needs at most, beside the weights."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_peak, args=(queue, name, size))
    child.start()
    kib = queue.get(timeout=600)
    child.join()
    return kib / 1024


def measure(size: int, seconds: float, training: bool) -> dict:
    """Seconds and MiB of every model at one size."""
    models = {name: build(name, size) for name in (OURS, *PEERS)}
    x = torch.randn(1, 3, size, size)
    row = {"error": check(OURS, models[OURS], x)}
    row["memory"] = {name: peak_memory(name, size) for name in models}
    row["inference"] = take_turns(infer, models, x, seconds)
    if training:
        row["training"] = take_turns(train, models, x, seconds)
    return row


def growth(sizes: dict[int, dict], figure: str) -> dict[str, float]:
    """Slope of a figure's logarithm over log pixels, for each model."""
    pixels = [2 * math.log(size) for size in sizes]
    logs = {
        name: [math.log(row[figure][name]) for row in sizes.values()] for name in (OURS, *PEERS)
    }
    return {name: float(np.polyfit(pixels, values, 1)[0]) for name, values in logs.items()}


def print_row(size: int, row: dict) -> None:
    """A line for each model and figure, with its ratio to ours."""
    print(f"{size} px, error {row['error']:.0e}")
    for figure, unit, scale in (
        ("inference", "ms", 1e3),
        ("training", "ms", 1e3),
        ("memory", "MiB", 1),
    ):
        values = row.get(figure, {})
        cells = (
            f"{name.split('_patch')[0]} {value * scale:.0f} {unit} ({value / values[OURS]:.2f}x)"
            for name, value in values.items()
        )
        if values:
            print(f"    {figure:10}", "   ".join(cells), flush=True)


def facts(threads: int) -> dict:
    """When, where and with what figures were measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "threads": threads,
        "dtype": "float32",
        "backend": backends()["selective_scan"]["cpu"],
    }


def main() -> None:
    """Print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512, 1024, 2048])
    parser.add_argument("--seconds", type=float, default=20, help="to measure for, a figure")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = facts(args.threads)
    print(", ".join(f"{k} {v}" for k, v in results.items()))
    sizes = {}
    for size in args.sizes:
        sizes[size] = measure(size, args.seconds, training=size == args.sizes[0])
        print_row(size, sizes[size])
    results["sizes"] = sizes
    if len(sizes) > 1:
        for figure in ("inference", "memory"):
            slopes = results[f"growth of {figure}"] = growth(sizes, figure)
            print(f"growth of {figure}:", {k: round(v, 3) for k, v in slopes.items()})
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
