"""Time one inference of every published model of ours, each in turns with timm's swin_tiny.

    python benchmarks/throughput.py [--threads 1] [--json benchmarks/results/throughput-cpu.json]

One image of each model's own size, float32. A model and Swin take turns, times are medians, and the
ratio of the two is what counts: machines are noisy. The output is compared with that of the
pure-torch scans before its time counts.
"""

import argparse
import json
from pathlib import Path

import models
import timm
import torch

import statescan

SWIN = "swin_tiny_patch4_window7_224"


def measure(name: str, rounds: int) -> dict:
    """Seconds of a model and of Swin in the same rounds, and how many times as fast ours is."""
    size = timm.create_model(name, device="meta").pretrained_cfg["input_size"][1]
    model, swin = timm.create_model(name).eval(), models.build(SWIN, 224)
    x, small = torch.randn(1, 3, size, size), torch.randn(1, 3, 224, 224)
    error = models.check(name, model, x)
    pairs = [(models.infer(model, x), models.infer(swin, small)) for _ in range(rounds + 1)][1:]
    ours, theirs = (models.median(column) for column in zip(*pairs, strict=True))
    return {"error": error, "seconds": ours, "swin_tiny": theirs, "speed": theirs / ours}


def main() -> None:
    """Print a line a model, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="*", help="wildcard for model names")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = models.facts(args.threads)
    print(", ".join(f"{k} {v}" for k, v in results.items()))
    results["models"] = {}
    for name in statescan.list_models(args.only):
        if name.startswith("test_"):
            continue
        results["models"][name] = row = measure(name, args.rounds)
        print(
            f"{name:28} {1e3 * row['seconds']:7.1f} ms, {row['speed']:.2f} of swin_tiny's speed,"
            f" error {row['error']:.0e}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
