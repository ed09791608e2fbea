"""Compile every Triton kernel for GPUs that nothing here was ever run on, AMD's among them.

    python benchmarks/compiled_elsewhere.py             # every call, every GPU
    python benchmarks/compiled_elsewhere.py --check     # the tests' part, against the record
    python benchmarks/compiled_elsewhere.py --record    # the record, and its table in docs/gpu.md

The calls are those of `compiled_kernels.py`. Code that only NVIDIA's compiler understands fails
here, and so does a kernel of whose numbers more than `MOST_SPILLED` bytes do not fit its registers.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from compiled_kernels import CALLS, Launch, assemble, compile_launch, labelled
from triton.backends.compiler import GPUTarget

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks/results/compiled_elsewhere.json"
DOCUMENT = ROOT / "docs/gpu.md"
COMMAND = "python benchmarks/compiled_elsewhere.py --record"
START, END = f"<!-- compiled elsewhere: {COMMAND} -->\n", "<!-- end elsewhere -->\n"

MOST_SPILLED = 384  # bytes of a thread, stored and loaded
TESTED = (
    "N1 bf16",
    "state fusion bf16 C64",
    "merge and norm bf16 C192",
    "dwconv bf16 C192",
    "ssd P1 N1 fp16 any routes",
)

Figures = dict[str, int]
Table = dict[str, dict[str, Figures]]  # architecture → call and kernel → figures


class Gpu(NamedTuple):
    """A compiler's target, and what is sold with it."""

    target: GPUTarget
    products: str


def nvidia(capability: int, products: str) -> Gpu:
    """A GPU of NVIDIA's."""
    return Gpu(GPUTarget("cuda", capability, 32), products)


def amd(architecture: str, lanes: int, products: str) -> Gpu:
    """A GPU of AMD's, with the lanes of a warp."""
    return Gpu(GPUTarget("hip", architecture, lanes), products)


GPUS = {
    "sm_75": nvidia(75, "T4, RTX 20"),
    "sm_100": nvidia(100, "B200"),
    "sm_120": nvidia(120, "RTX 50"),
    "gfx90a": amd("gfx90a", 64, "MI250"),
    "gfx942": amd("gfx942", 64, "MI300"),
    "gfx950": amd("gfx950", 64, "MI350"),
    "gfx1100": amd("gfx1100", 32, "RX 7900"),
    "gfx1201": amd("gfx1201", 32, "RX 9070"),
}


def compile_for(gpu: Gpu, launch: Launch) -> Figures:
    """Compile one launch: registers of a thread, and bytes of it in memory."""
    code = compile_launch(gpu.target, launch).asm
    if gpu.target.backend == "cuda":
        return assemble(code["ptx"], gpu.target.arch)
    number = lambda name: int(re.search(rf"\.{name}:\s+(\d+)", code["amdgcn"])[1])  # noqa: E731
    return {"registers": number("vgpr_count"), "spilled": number("private_segment_fixed_size")}


def measure(calls: tuple[str, ...]) -> Table:
    """Figures of every kernel that some calls launch, for every GPU."""
    table: Table = {}
    for name, gpu in GPUS.items():
        table[name] = {
            f"{call}, {label}": compile_for(gpu, launch)
            for call in calls
            for label, launch in launches(gpu, call).items()
        }
        print(name, {kernel: tuple(row.values()) for kernel, row in table[name].items()})
    return table


def launches(gpu: Gpu, call: str) -> dict[str, Launch]:
    """What a call launches on a GPU, by name; torch is that GPU's meanwhile."""
    hip = "0" if gpu.target.backend == "hip" else None
    with mock.patch.object(torch.version, "hip", hip):
        return labelled(CALLS[call])


def outside(table: Table) -> list[str]:
    """A sentence for each kernel that spills too much."""
    return [
        f"{kernel}, {gpu}: spilled {figures['spilled']}, over {MOST_SPILLED}"
        for gpu, kernels in table.items()
        for kernel, figures in kernels.items()
        if figures["spilled"] > MOST_SPILLED
    ]


def document(known: dict) -> str:
    """The record as a table of Markdown, a line a GPU."""
    lines = [
        f"\nTriton {known['triton']}; registers and bytes of a thread, of the kernel with most.\n",
        "| target | for example | kernels | registers | spilled |",
        "|---|---|---|---|---|",
    ]
    for name, kernels in known["gpus"].items():
        most = {k: max(row[k] for row in kernels.values()) for k in ("registers", "spilled")}
        cells = (name, GPUS[name].products, len(kernels), *most.values())
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n\n"


def record(table: Table) -> None:
    """Write figures and their table in the document."""
    known = {"triton": triton.__version__, "gpus": table}
    RECORD.write_text(json.dumps(known, indent=1) + "\n")
    before, rest = DOCUMENT.read_text().split(START)
    DOCUMENT.write_text(before + START + document(known) + END + rest.split(END, 1)[1])


def main() -> int:
    """Print a line a GPU, then what spills too much; 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="what the tests compile")
    parser.add_argument("--record", action="store_true", help="write the record and the document")
    args = parser.parse_args()
    table = measure(TESTED if args.check else tuple(CALLS))
    wrong = outside(table)
    print(*wrong, sep="\n")
    if args.record and not wrong:
        record(table)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
