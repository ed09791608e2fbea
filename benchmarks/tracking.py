"""Frames a second of the tracker for 10, 100 and 500 targets, and memory over 10,000 frames.

    python benchmarks/tracking.py [--threads 1] [--json benchmarks/results/tracking-cpu.json]

Targets walk in circles, each in a cell of its own, and each detection is shaken by a hundredth of
its size: every tracker must give every target one number for all frames, and gets no figure if it
does not. Times are of the CPU, medians over frames, so that a busy machine counts little; growth
exponents are slopes of log time over log targets. For the memory, twenty targets come every ten
frames, and as many go; it is what the process holds after a tenth of the run and at its end.
"""

import argparse
import json
import math
import time
from pathlib import Path
from statistics import median

import models
import numpy as np
import torch

from statescan.tracking import (
    ConstantVelocity,
    Kalman,
    LearnedMotion,
    MambaTracker,
    Motion,
    MotionPredictor,
    Stationary,
)

TARGETS, PIXELS = (10, 100, 500), 40
LONG = 10_000  # frames


def learned(dim: int) -> LearnedMotion:
    """A predictor that expects no change, but computes all it would: its last layer is zero."""
    torch.manual_seed(0)
    predictor = MotionPredictor(dim=dim)
    torch.nn.init.zeros_(predictor.head[-1].weight)
    torch.nn.init.zeros_(predictor.head[-1].bias)
    return LearnedMotion(predictor)


MOTIONS = {
    "IoU only": Stationary,
    "constant velocity": ConstantVelocity,
    "Kalman": Kalman,
    "MTP, 64 channels": lambda: learned(64),
    "MTP, 512 channels": lambda: learned(512),
}


def circles(targets: int, frames: int, seed: int = 0) -> np.ndarray:
    """(T, n, 4) corners of targets that stay in cells of their own."""
    rng = np.random.default_rng(seed)
    columns = math.ceil(math.sqrt(targets))
    cell = 4 * PIXELS
    start = np.stack([np.arange(targets) % columns, np.arange(targets) // columns], 1) * cell
    angle = rng.uniform(0, 2 * np.pi, targets) + 0.2 * np.arange(frames)[:, None]
    centers = start + PIXELS * np.stack([np.cos(angle), np.sin(angle)], -1)
    centers = centers + rng.normal(0, PIXELS / 100, centers.shape)
    return np.concatenate([centers - PIXELS / 2, centers + PIXELS / 2], -1)


def run(motion: Motion, boxes: np.ndarray, rounds: int) -> float:
    """Median CPU seconds a frame over rounds, whose ids are checked.

    Raises:
        SystemExit: a target lost its number.
    """
    scores, order = np.ones(boxes.shape[1]), np.random.default_rng(1)
    seconds = []
    for _ in range(rounds):
        tracker, first = MambaTracker(motion), None
        for frame in boxes:
            shuffled = order.permutation(len(frame))
            start = time.process_time()
            ids = tracker.update(frame[shuffled], scores)
            seconds.append(time.process_time() - start)
            ids = ids[np.argsort(shuffled)]
            first = ids if first is None else first
            if not (np.array_equal(ids, first) and len(set(ids)) == len(ids) and ids.min() > 0):
                raise SystemExit(f"{type(motion).__name__} lost a target: its times mean nothing")
    return median(seconds)


def speeds(frames: int, rounds: int) -> dict[str, dict]:
    """Frames a second for each number of targets, and the exponents of growth."""
    found = {}
    for name, make in MOTIONS.items():
        times = {n: run(make(), circles(n, frames), rounds) for n in TARGETS}
        logs = [[math.log(v) for v in values] for values in (times.keys(), times.values())]
        steps = np.diff(logs[1]) / np.diff(logs[0])
        found[name] = {
            "frames a second": {n: 1 / s for n, s in times.items()},
            "growth": dict(zip(("10 to 100", "100 to 500"), map(float, steps), strict=True)),
        }
        rates = ", ".join(f"{n} targets {1 / s:8.1f} frames/s" for n, s in times.items())
        print(f"{name:20} {rates}, growth {steps[0]:.2f} and {steps[1]:.2f}", flush=True)
    return found


def memory(frames: int) -> dict[str, float]:
    """MiB that the process holds, early and late in a run in which targets come and go."""
    tracker, boxes = MambaTracker(Kalman(), patience=5), circles(20, 100)
    held = {}
    for t in range(frames):
        shift = 1000.0 * (t // 10 % 7)  # new targets every ten frames
        tracker.update(boxes[t % len(boxes)] + shift, np.ones(boxes.shape[1]))
        if t + 1 in (frames // 10, frames):
            held[f"after {t + 1} frames"] = models.resident("VmRSS") / 1024
    if len(tracker) > 2 * boxes.shape[1]:
        raise SystemExit(f"{len(tracker)} targets are followed, {boxes.shape[1]} are there")
    print(
        ", ".join(f"{k} {v:.1f} MiB" for k, v in held.items()), f"ids up to {tracker.next_id - 1}"
    )
    return {**held, "ids": tracker.next_id - 1}


def main() -> None:
    """Print a line a motion, and write all of it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=15, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--long", type=int, default=LONG, help="frames of the run for memory")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = models.facts(args.threads)
    print(", ".join(f"{k} {v}" for k, v in results.items()))
    results["motions"] = speeds(args.frames, args.rounds)
    results["memory"] = memory(args.long)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
