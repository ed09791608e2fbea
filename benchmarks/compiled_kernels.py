"""Compile every Triton kernel for GPUs that need not be here, and count what comes out.

    python benchmarks/compiled_kernels.py [--json benchmarks/results/compiled_kernels.json]

The library's own host code runs on tensors without data, and each launch is compiled instead of
run, for sm_80 and sm_90: registers, spills and shared memory as the assembler reports them, and the
shuffles and barriers in its input. A kernel that the interpreter accepts but the compiler does not
fails here.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

from statescan.kernels import _triton
from statescan.kernels.selective_scan import gpu as selective_scan
from statescan.kernels.state_fusion import gpu as state_fusion

CAPABILITIES = (80, 90)
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
Figures = dict[str, int]
Launch = tuple[object, tuple, dict]


def scan(N: int, *, rank: int = 0, dtype=torch.bfloat16, once: bool = True, batch: int = 128):
    """Forward and backward of the selective scan of VMamba-T's first stage, with N states."""
    L, K, C = 3136, 4, 192
    empty = lambda *shape, dtype=torch.float32: torch.empty(shape, dtype=dtype, device="meta")  # noqa: E731
    inputs = (
        empty(batch, L, C, dtype=dtype),
        empty(batch, L, K, rank or C, dtype=dtype),
        empty(K, C, N),
        *(empty(batch, L, K, N, dtype=dtype) for _ in range(2)),
        empty(K, C),
        empty(K, C, rank) if rank else None,
        empty(K, C),
        empty(K, L, dtype=torch.int32),
        True,
        once,
    )
    y, saved = selective_scan.forward(*inputs)
    selective_scan.backward(y, saved, *inputs)


def fusion(channels: int, side: int, *, dtype=torch.bfloat16):
    """Forward and backward of Spatial-Mamba's state fusion: the 25 taps of its three kernels."""
    x = torch.empty(128, side, side, channels, dtype=dtype, device="meta")
    weight = torch.empty(25, channels, device="meta")
    dilated = ((d * i, d * j) for d in (1, 3, 5) for i in (-1, 0, 1) for j in (-1, 0, 1))
    offsets = tuple(zip(*dict.fromkeys(dilated), strict=True))
    state_fusion.backward(state_fusion.forward(x, weight, offsets), x, weight, offsets)


CALLS: dict[str, Callable[[], None]] = {
    "N1 bf16": lambda: scan(1),
    "N1 bf16 rank 6": lambda: scan(1, rank=6),
    "N1 fp32 rank 6": lambda: scan(1, rank=6, dtype=torch.float32),
    "N1 bf16 rank 6 in segments": lambda: scan(1, rank=6, batch=0),
    "N1 bf16 rank 6 any routes": lambda: scan(1, rank=6, once=False),
    "N16 bf16 rank 6": lambda: scan(16, rank=6),
    "N16 fp32": lambda: scan(16, dtype=torch.float32),
    "state fusion bf16 C64": lambda: fusion(64, 56),
    "state fusion bf16 C96": lambda: fusion(96, 56),
    "state fusion fp16 C512": lambda: fusion(512, 7, dtype=torch.float16),
    "state fusion fp32 C64": lambda: fusion(64, 56, dtype=torch.float32),
}


def launches(call: Callable[[], None]) -> list[Launch]:
    """What a call of the library would launch."""
    seen: list[Launch] = []

    def note(kernel, grid, *arguments, **options) -> None:
        seen.append((kernel, arguments, options))

    with mock.patch.object(_triton, "launch", note):
        call()
    return seen


def source(kernel, arguments: tuple, options: dict) -> ASTSource:
    """A kernel with the types of its arguments, specialised as a launch would."""
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | options
    signature, constants, attributes = {}, {}, {}
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        if isinstance(value, Tensor):
            signature[name] = "*" + TYPES[value.dtype]
        elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        aligned = isinstance(value, Tensor) or (
            isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        )
        if aligned and signature[name] != "constexpr":
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def compile_for(capability: int, kernel, arguments: tuple, options: dict) -> Figures:
    """Compile one launch; the figures of its machine code."""
    compiler = {k: v for k, v in options.items() if k in ("num_warps", "num_stages")}
    kernel_source = source(kernel, arguments, options)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(kernel_source, target=target, options=compiler)
    ptx = compiled.asm["ptx"]
    return assemble(ptx, capability) | {
        "shared": compiled.metadata.shared,
        "shuffles": len(re.findall(r"\bshfl\.sync", ptx)),
        "barriers": len(re.findall(r"\bbar\.sync", ptx)),
    }


def assemble(ptx: str, capability: int) -> Figures:
    """Registers a thread, and bytes spilled to memory."""
    architecture = nvidia.sm_arch_from_capability(capability)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        command = [nvidia.get_ptxas(capability).path, "-v", f"--gpu-name={architecture}"]
        run = subprocess.run(
            [*command, str(path), "-o", os.devnull], capture_output=True, text=True, check=True
        )
    number = lambda pattern: int(re.search(pattern, run.stderr)[1])  # noqa: E731
    return {
        "registers": number(r"Used (\d+) registers"),
        "spilled": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
    }


def measure(names: list[str]) -> dict[str, dict[str, dict[str, Figures]]]:
    """Figures of every kernel that the named calls launch, by call, kernel and capability."""
    table = {}
    for name in names:
        kernels = table[name] = {}
        for kernel, arguments, options in launches(CALLS[name]):
            forms = [f" ({name.lower()})" for name in ("LOCAL", "BACK") if options.get(name)]
            label = "".join([kernel.__name__, *forms])
            if label in kernels:
                continue
            kernels[label] = {
                f"sm_{c}": compile_for(c, kernel, arguments, options) for c in CAPABILITIES
            }
            for capability, figures in kernels[label].items():
                shown = "  ".join(f"{k} {v}" for k, v in figures.items())
                print(f"{name:28} {label:20} {capability}  {shown}", flush=True)
    return table


def main() -> None:
    """Print a line a kernel, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="calls whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    table = measure([name for name in CALLS if args.only in name])
    if args.json:
        args.json.write_text(json.dumps({"triton": triton.__version__, "calls": table}, indent=1))


if __name__ == "__main__":
    main()
