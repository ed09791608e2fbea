#!/usr/bin/env python
"""Write docs/models.md: a row for every model, from the code and from measured speeds.

``python tools/model_table.py`` writes it, ``--check`` says whether it is up to date. Parameters and
multiply-adds are counted, published accuracies come from the entry points' docstrings, sources and
licences from the pretrained configurations, speeds from benchmarks/results/throughput-cpu.json.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import timm
import torch
from timm.models import model_entrypoint
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import statescan

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/models.md"
SPEEDS = ROOT / "benchmarks/results/throughput-cpu.json"
COLUMNS = (
    *("model", "parameters", "multiply-adds", "top-1, published"),
    *("speed on a CPU, Swin-T = 1", "at 1024 px", "memory at 1024 px", "weights"),
)
HEAD = """# Models

Written by `python tools/model_table.py` from the code; do not edit. Multiply-adds are for one image
of 224 pixels unless stated, half of what torch's FLOP counter sees. Top-1 on ImageNet-1k is the
authors' figure, from their papers and repositories. Speed and memory are measured: one image, one
thread, float32, each model in turns with timm's swin_tiny at the same size ({machine};
`python benchmarks/throughput.py`); memory is what the first inference needs beside the weights.
[choosing.md](choosing.md) says which model is worth a look for what.

The authors' files could not be downloaded where these pages are made: that they fit is proved by
their key lists and shapes for every model, and by outputs, feature maps and gradients of the
authors' code with random weights. Where weights lie on Google Drive, `gdown FILE_ID` fetches them
and `tools/convert_checkpoint.py` or `checkpoint_path=` takes them.
"""


def multiply_adds(model: nn.Module, size: int) -> float:
    """Multiply-adds of one inference, in thousands of millions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.pretrained_cfg["input_size"][0], size, size, device="meta"))
    return counter.get_total_flops() / 2e9


def published(name: str) -> str:
    """The published top-1 accuracy in an entry point's docstring, if it states one."""
    match = re.search(r"([\d.]+) % top-1", model_entrypoint(name).__doc__)
    return match[1] if match else "–"


def weights(cfg: dict) -> str:
    """Where a model's weights are, and under which licence."""
    if cfg.get("hf_hub_id"):
        source = f"Hugging Face {cfg['hf_hub_id']}"
    elif cfg.get("url"):
        source = f"[{cfg['url'].rpartition('/')[2]}]({cfg['url']})"
    elif cfg.get("description"):
        source = cfg["description"].removeprefix("weights: ")
    else:
        return "none"
    return f"{source} ({cfg['license']})"


def costs(measured: dict | None) -> tuple[str, str, str]:
    """A model's measured speeds and memory, or dashes."""
    if measured is None:
        return "–", "–", "–"
    own, large = measured["own"], measured["large"]
    return f"{own['speed']:.2f}", f"{large['speed']:.2f}", f"{large['memory']:.0f} MiB"


def row(name: str, speeds: dict) -> tuple[str, ...]:
    """A model's cells."""
    model = timm.create_model(name, device="meta").eval()
    cfg = model.pretrained_cfg
    size = cfg["input_size"][1]
    return (
        f"`{name}`" if size == 224 else f"`{name}` ({size} px)",
        f"{sum(p.numel() for p in model.parameters()):,}",
        f"{multiply_adds(model, size):.2f} G",
        published(name),
        *costs(speeds["models"].get(name)),
        weights(cfg),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def section(title: str, origin: str, names: list[str], speeds: dict) -> str:
    """A family's heading and table."""
    return f"## {title}\n\n{origin}\n\n{table(COLUMNS, (row(name, speeds) for name in names))}"


def family(name: str) -> tuple[str, str]:
    """Title and origin of a model's family: its paper, and where its code is."""
    cfg = timm.create_model(name, device="meta").pretrained_cfg
    paper = cfg["paper_ids"].removeprefix("arXiv:")
    return (
        cfg["paper_name"],
        f"[arXiv {paper}](https://arxiv.org/abs/{paper}), [code]({cfg['origin_url']})",
    )


def where_measured(speeds: dict) -> str:
    """The first and the last day of the measurements, and the machine."""
    days = sorted({row["date"] for row in speeds["models"].values()})
    span = " to ".join(dict.fromkeys((days[0], days[-1])))
    return f"{span}, torch {speeds['torch']}, {speeds['machine']}"


def page() -> str:
    """The whole page."""
    speeds = json.loads(SPEEDS.read_text())
    head = HEAD.format(machine=where_measured(speeds))
    names = sorted(n for n in statescan.list_models() if not n.startswith("test_"))
    by_family = groupby(sorted(names, key=family), key=family)
    return "\n".join([head, *(section(*f, list(group), speeds) for f, group in by_family)])


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    args = parser.parse_args()
    if not args.check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE.relative_to(ROOT)} is out of date: run python tools/model_table.py")


if __name__ == "__main__":
    main()
