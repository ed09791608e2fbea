#!/usr/bin/env python
"""Write docs/choosing.md: which backbone for what, from published accuracy and measured cost.

``python tools/choosing.py``. Accuracies and costs are those of docs/models.md: see
tools/model_table.py.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import timm
from model_table import SPEEDS, multiply_adds, published, table, where_measured

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/choosing.md"
COLUMNS = (
    *("model", "top-1", "parameters", "multiply-adds"),
    *("speed, own size", "speed, 1024 px", "memory, 1024 px"),
)


class Model(NamedTuple):
    """What a model gives and costs; speeds are multiples of Swin-T's at the same size."""

    name: str
    top1: float
    parameters: int
    multiply_adds: float
    speed: float
    speed_large: float
    memory_large: float


def facts(name: str, measured: dict) -> Model:
    """A model's figures."""
    model = timm.create_model(name, device="meta").eval()
    own, large = measured["own"], measured["large"]
    return Model(
        name,
        float(published(name)),
        sum(p.numel() for p in model.parameters()),
        multiply_adds(model, own["pixels"]),
        own["speed"],
        large["speed"],
        large["memory"],
    )


def front(models: Iterable[Model], cost: Callable[[Model], float]) -> list[Model]:
    """The models that no other equals or beats in accuracy at the same cost or a lower one."""
    best, chosen = 0.0, []
    for model in sorted(models, key=lambda m: (cost(m), -m.top1)):
        if model.top1 > best:
            best = model.top1
            chosen.append(model)
    return chosen


def cells(m: Model) -> tuple[str, ...]:
    """A model's row."""
    return (
        *(f"`{m.name}`", f"{m.top1:.1f}", f"{m.parameters / 1e6:.1f} M"),
        *(f"{m.multiply_adds:.1f} G", f"{m.speed:.2f}", f"{m.speed_large:.2f}"),
        f"{m.memory_large:.0f} MiB",
    )


HEAD = """# Which backbone for what

Written by `python tools/choosing.py`; do not edit. Each table holds the models that no other of
ours beats in published ImageNet top-1 at the same cost: going down a table buys accuracy. Speeds
are multiples of timm's swin_tiny at the same image size, one image on one CPU thread in float32,
higher is faster; memory is what an inference needs beside the weights, {swin:.0f} MiB for
swin_tiny at 1024 pixels ({machine}; `python benchmarks/throughput.py`). Accuracies are the
authors', not measured here, and the authors' recipes and image sizes differ. Nothing has been
measured on a GPU yet: there the order will be another one, since launches and memory traffic
count, not multiply-adds. Every model is in [models.md](models.md).
"""

SECTIONS = (
    ("Classification on a CPU, at the size of training", lambda m: -m.speed),
    ("Large images, 1024 pixels, on a CPU", lambda m: -m.speed_large),
    ("Large images in little memory", lambda m: m.memory_large),
    ("Few parameters", lambda m: m.parameters),
)

TASKS = (
    (
        "to classify with few images, or without a GPU",
        "`vmamba_nano`",
        "made for it: 1.3 M parameters, trains from scratch in minutes ([README](../README.md))",
    ),
    (
        "a backbone for Mask R-CNN or UPerNet with weights that exist",
        "`vmamba_*`, `spatial_mamba_*`, `msvmamba_*`",
        "the authors publish detectors and segmentors, whose weights load strictly",
    ),
    (
        "one map of tokens for a ViT's head or neck",
        "`plainmamba_*`, `vim_*`, `localvim_*`",
        "one width and stride all the way; `vim_*_stride8` for finer maps",
    ),
    (
        "neighbours in two dimensions from a single scan",
        "`spatial_mamba_*`",
        "states are fused on the grid before they are read",
    ),
    ("no order of scanning", "`vssd_*`", "non-causal: a token sees all others alike"),
    (
        "fine detail, such as poses and thin structures",
        "`hrvmamba_*`",
        "keeps strides 4, 8, 16 and 32 side by side to the end",
    ),
    (
        "medical segmentation from scratch",
        "`mhs_vm_unet_*`",
        "a U-Net from image to mask, whose heads scan along routes of their own",
    ),
    (
        "real-time detection",
        "`mamba_yolo_*`",
        "backbone, neck and anchor-free head as published for COCO",
    ),
    ("another scan", "any family that scans, `routes=`", "a route is a function, not a kernel"),
)


def page() -> str:
    """The whole page."""
    measured = json.loads(SPEEDS.read_text())
    rated = {n: row for n, row in measured["models"].items() if published(n) != "–"}
    models = [facts(name, row) for name, row in rated.items()]
    head = HEAD.format(machine=where_measured(measured), swin=measured["swin_tiny memory"]["1024"])
    fronts = (
        f"## {title}\n\n{table(COLUMNS, map(cells, front(models, cost)))}"
        for title, cost in SECTIONS
    )
    tasks = f"## By task\n\n{table(('you want', 'take', 'because'), TASKS)}"
    return "\n".join([head, *fronts, tasks])


if __name__ == "__main__":
    PAGE.write_text(page())
