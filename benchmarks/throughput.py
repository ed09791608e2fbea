"""Time one inference of every published model of ours, each in turns with timm's swin_tiny.

    python benchmarks/throughput.py [--threads 1] [--json benchmarks/results/throughput-cpu.json]

One image of each model's own size, and one of 1024 pixels, float32. A model and Swin see images
of the same size in turns; the shortest time of each counts, the one that the machine's other work
disturbed least, and the ratio of the two more than either. The output is compared with that of
the pure-torch scans before its time counts. Memory is what a new process needs for its first
inference beside the weights. A JSON file that is there keeps the rows of models that are not
measured again.
"""

import argparse
import json
from functools import cache
from pathlib import Path

import models
import timm
import torch
from torch import nn

import statescan

SWIN = "swin_tiny_patch4_window7_224"
LARGE = 1024


@cache
def swin(size: int) -> nn.Module:
    """Swin-T for images of a size."""
    return models.build(SWIN, size)


def measure(name: str, size: int, rounds: int) -> dict:
    """Seconds of a model and of Swin in the same rounds, how many times as fast ours is, memory."""
    model, x = models.build(name, size), torch.randn(1, 3, size, size)
    error = models.check(name, model, x)
    pairs = [(models.infer(model, x), models.infer(swin(size), x)) for _ in range(rounds + 1)][1:]
    ours, theirs = map(min, zip(*pairs, strict=True))
    return {
        "pixels": size,
        "error": error,
        "seconds": ours,
        "swin_tiny": theirs,
        "speed": theirs / ours,
        "memory": models.peak_memory(name, size),
    }


def measure_both(name: str, rounds: int) -> dict:
    """A model at its own size and at 1024 pixels."""
    own = timm.create_model(name, device="meta").pretrained_cfg["input_size"][1]
    return {"own": measure(name, own, rounds), "large": measure(name, LARGE, max(1, rounds // 3))}


def print_row(name: str, row: dict) -> None:
    """A model's figures at both sizes."""
    cells = (
        f"{r['pixels']:4} px {1e3 * r['seconds']:7.1f} ms, {r['speed']:.2f} of swin_tiny's speed,"
        f" {r['memory']:.0f} MiB, error {r['error']:.0e}"
        for r in row.values()
    )
    print(f"{name:28}", "  ".join(cells), flush=True)


def main() -> None:
    """Print a line a model, and write them as JSON where asked, after every model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="at a model's own size")
    parser.add_argument("--only", nargs="+", default="*", help="wildcards for model names")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = models.facts(args.threads)
    date = results.pop("date")  # of each row: some may be kept from an earlier day
    print(date, *(f"{k} {v}" for k, v in results.items()), sep=", ")
    there = args.json and args.json.exists()
    results["swin_tiny memory"] = {size: models.peak_memory(SWIN, size) for size in (224, LARGE)}
    results["models"] = json.loads(args.json.read_text())["models"] if there else {}
    for name in statescan.list_models(args.only):
        if name.startswith("test_"):
            continue
        row = measure_both(name, args.rounds)
        print_row(name, row)
        results["models"][name] = {"date": date, **row}
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
