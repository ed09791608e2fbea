"""Compile every Triton kernel for GPUs that need not be here, and count what comes out.

    python benchmarks/compiled_kernels.py            # every call, for sm_80 and sm_90
    python benchmarks/compiled_kernels.py --check    # what the tests compile, against the record
    python benchmarks/compiled_kernels.py --record   # the record, and its tables in docs/gpu.md

The library's own host code runs on tensors without data, and each launch is compiled instead of
run: registers, spills and shared memory as the assembler reports them, and instructions in its
input. A kernel that the interpreter accepts but the compiler does not fails here, and so does one
outside the limits of `kernel_limits.py`. A new operator is a function like `scan` and one line in
`CALLS`. Triton must not be in its interpreter: TRITON_INTERPRET is unset.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import kernel_limits
import kernel_traffic
import torch
import triton
from gpu_limits import exponentials
from kernel_traffic import Phase
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

from statescan.kernels import _triton
from statescan.kernels.dwconv_silu import gpu as dwconv_silu
from statescan.kernels.merge_norm import gpu as merge_norm
from statescan.kernels.recurrence_2d import gpu as recurrence_2d
from statescan.kernels.selective_scan import gpu as selective_scan
from statescan.kernels.ssd import gpu as ssd
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
COUNTED = {  # instructions in the assembler's input
    "shuffles": r"\bshfl\.sync",
    "barriers": r"\bbar\.sync",
    "exp2": r"\bex2\.approx",
    "loads": r"\bld\.global",
    "stores": r"\bst\.global",
}
Figures = dict[str, int]
Launch = tuple[object, tuple, dict]


def empty(*shape: int, dtype=torch.float32) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def scan(
    N: int, *, rank: int = 0, dtype=torch.bfloat16, once: bool = True, batch: int = 128
) -> dict[str, Phase]:
    """The selective scan of VMamba-T's first stage, with N states."""
    L, K, C = 3136, 4, 192
    tensors = (
        empty(batch, L, C, dtype=dtype),
        empty(batch, L, K, rank or C, dtype=dtype),
        empty(K, C, N),
        *(empty(batch, L, K, N, dtype=dtype) for _ in range(2)),
        empty(K, C),
        empty(K, C, rank) if rank else None,
        empty(K, C),
    )
    inputs = (*tensors, empty(K, L, dtype=torch.int32), True, once)
    y, saved = selective_scan.forward(*inputs)
    given = [t for t in tensors if t is not None]
    return {
        "forward": Phase(partial(selective_scan.forward, *inputs), [*given, y]),
        "backward": Phase(partial(selective_scan.backward, y, saved, *inputs), [y, *given, *given]),
    }


def dual(P: int, N: int, *, dtype=torch.bfloat16, once: bool = True) -> None:
    """Forward and backward of SSD along four routes: six heads of P channels with N states."""
    batch, L, K, H = 128, 3136, 4, 6
    inputs = (
        empty(batch, L, H, P, dtype=dtype),
        empty(batch, L, K, H, dtype=dtype),
        empty(K, H),
        *(empty(batch, L, K, 1, N, dtype=dtype) for _ in range(2)),
        *(empty(K, H) for _ in range(2)),
        *(empty(K, L, dtype=torch.int32), True, once),
    )
    y, states = ssd.forward(*inputs)
    ssd.backward(y, states, *inputs)


def fusion(channels: int, side: int, *, dtype=torch.bfloat16):
    """Forward and backward of Spatial-Mamba's state fusion: the 25 taps of its three kernels."""
    x = empty(128, side, side, channels, dtype=dtype)
    weight = empty(25, channels)
    dilated = ((d * i, d * j) for d in (1, 3, 5) for i in (-1, 0, 1) for j in (-1, 0, 1))
    offsets = tuple(zip(*dict.fromkeys(dilated), strict=True))
    state_fusion.backward(state_fusion.forward(x, weight, offsets), x, weight, offsets)


def norm(channels: int, length: int, *, routes: int = 4, dtype=torch.bfloat16) -> None:
    """Forward and backward of the sum over routes, layer norm and gate that follow a scan."""
    y = empty(128, length, routes, channels, dtype=dtype)
    out, gate = (empty(128, length, channels, dtype=dtype) for _ in range(2))
    weight, bias = empty(channels), empty(channels)
    merge_norm.forward(y, weight, bias, gate, 1e-5, True)
    merge_norm.backward(out, out, weight, bias, gate, 1e-5)


def convolution(channels: int, side: int, *, size: int = 3, dtype=torch.bfloat16) -> None:
    """Forward and backward of the depthwise convolution with SiLU before a scan."""
    x = empty(128, side, side, channels, dtype=dtype)
    weight, bias = empty(channels, 1, size, size), empty(channels)
    dwconv_silu.forward(x, weight, bias)
    dwconv_silu.backward(x, x, weight, bias)


def recurrence(entries: int, N: int, *, dtype=torch.bfloat16) -> None:
    """Forward and backward of 2DMamba (one entry) or Mamba2D (two), with N states."""
    x, B = empty(128, 56, 56, 192, dtype=dtype), empty(128, 56, 56, N, dtype=dtype)
    D = empty(192)
    inputs = (x, [recurrence_2d.Entry(x, empty(192, N), B, D)] * entries, B, D)
    recurrence_2d.backward(recurrence_2d.forward(*inputs), *inputs)


def exp2_limit() -> dict[str, Phase]:
    """The kernel that measures a GPU's exponentials a second."""
    out = empty(1024)
    launch = partial(_triton.launch, exponentials, (1,), out, 1000, BLOCK=1024)
    return {"forward": Phase(launch, [out])}


class Call(NamedTuple):
    """A call of the library whose launches are compiled.

    Args:
        make: makes the call on tensors without data, and may return its phases to be run instead.
        tested: capabilities that the tests compile it for; the rest is left to the full run.
        limits: for kernels by name, limits that differ from those in `kernel_limits.py`.
    """

    make: Callable[[], dict[str, Phase] | None]
    tested: tuple[int, ...] = CAPABILITIES
    limits: dict[str, dict[str, int | str]] = {}  # noqa: RUF012


# Sums over channels, which lie across the lanes and above 512 channels across warps.
ACROSS = {
    kernel: {"shuffles": 200, "barriers": 40, "shared": 256} for kernel in ("forward", "backward")
}
SUMS = {"tap_dweight": {"barriers": 24, "shared": 1024, "shuffles": 100}}  # over positions
# Products of tiles pass them through shared memory, of which consumer cards have 100 KB.
PRODUCTS = {"shuffles": 300, "barriers": 120, "shared": 100 * 1024}
DUAL = dict.fromkeys(("leave", "leave #2", "forward"), PRODUCTS) | dict.fromkeys(
    ("backward", "backward_shared"), PRODUCTS | {"spilled": 256}
)
CALLS: dict[str, Call] = {
    "N1 bf16": Call(partial(scan, 1)),
    "N1 bf16 rank 6": Call(partial(scan, 1, rank=6)),
    "N1 fp32 rank 6": Call(partial(scan, 1, rank=6, dtype=torch.float32), tested=(90,)),
    "N1 bf16 rank 6 in segments": Call(partial(scan, 1, rank=6, batch=0)),
    "N1 bf16 rank 6 any routes": Call(partial(scan, 1, rank=6, once=False)),
    "N16 bf16 rank 6": Call(partial(scan, 16, rank=6), tested=(90,)),
    "N16 fp32": Call(partial(scan, 16, dtype=torch.float32), tested=()),
    "ssd P32 N64 bf16": Call(partial(dual, 32, 64), tested=(80,), limits=DUAL),
    "ssd P1 N1 fp16 any routes": Call(
        partial(dual, 1, 1, dtype=torch.float16, once=False), tested=(), limits=DUAL
    ),
    "ssd P64 N64 fp32": Call(partial(dual, 64, 64, dtype=torch.float32), tested=(90,), limits=DUAL),
    "state fusion bf16 C64": Call(partial(fusion, 64, 56), limits=SUMS),
    "state fusion bf16 C96": Call(partial(fusion, 96, 56), tested=(), limits=SUMS),
    "state fusion fp16 C512": Call(
        partial(fusion, 512, 7, dtype=torch.float16), tested=(), limits=SUMS
    ),
    "state fusion fp32 C64": Call(
        partial(fusion, 64, 56, dtype=torch.float32), tested=(90,), limits=SUMS
    ),
    "merge and norm bf16 C192": Call(partial(norm, 192, 3136), limits=ACROSS),
    "merge and norm fp32 C1536": Call(
        partial(norm, 1536, 49, dtype=torch.float32), tested=(90,), limits=ACROSS
    ),
    "dwconv bf16 C192": Call(partial(convolution, 192, 56)),
    "dwconv fp32 C96 7x7": Call(
        partial(convolution, 96, 56, size=7, dtype=torch.float32), tested=(90,)
    ),
    "2DMamba N1 bf16": Call(partial(recurrence, 1, 1), tested=(90,)),
    "2DMamba N16 bf16": Call(partial(recurrence, 1, 16), tested=(90,)),
    "Mamba2D N1 bf16": Call(partial(recurrence, 2, 1), tested=(90,)),
    "Mamba2D N16 bf16": Call(partial(recurrence, 2, 16), tested=(90,)),
    "exp2 limit": Call(
        exp2_limit, tested=(90,), limits={"exponentials": {"barriers": 3, "shared": 4096}}
    ),
}


def launches(call: Call) -> list[Launch]:
    """What a call of the library would launch."""
    seen: list[Launch] = []

    def note(kernel, grid, *arguments, **options) -> None:
        seen.append((kernel, arguments, options))

    with mock.patch.object(_triton, "launch", note):
        if phases := call.make():
            seen.clear()
            for phase in phases.values():
                phase.run()
    return seen


def labelled(call: Call) -> dict[str, Launch]:
    """What a call would launch, each kernel and specialisation once, by a name."""
    found: dict[str, Launch] = {}
    known = set()
    for kernel, arguments, options in launches(call):
        compiled = source(kernel, arguments, options).hash() + str(options.get("num_warps"))
        if compiled in known:
            continue
        known.add(compiled)
        passes = [f" ({name.lower()})" for name in ("LOCAL", "EDGES") if options.get(name)]
        label = "".join([kernel.__name__, *passes])
        same = sum(name.split(" #")[0] == label for name in found)
        found[f"{label} #{same + 1}" if same else label] = (kernel, arguments, options)
    return found


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
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        aligned = isinstance(value, Tensor) or (
            isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        )
        if aligned and signature[name] != "constexpr":
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def compile_launch(target: GPUTarget, launch: Launch):
    """Compile one launch for a GPU."""
    kernel, arguments, options = launch
    compiler = {k: v for k, v in options.items() if k in ("num_warps", "num_stages")}
    return triton.compile(source(kernel, arguments, options), target=target, options=compiler)


def compile_for(capability: int, launch: Launch) -> Figures:
    """Compile one launch; the figures of its machine code."""
    compiled = compile_launch(GPUTarget("cuda", capability, 32), launch)
    ptx = compiled.asm["ptx"]
    counts = {name: len(re.findall(pattern, ptx)) for name, pattern in COUNTED.items()}
    return assemble(ptx, capability) | {"shared": compiled.metadata.shared} | counts | widest(ptx)


def widest(ptx: str) -> Figures:
    """Bytes of the widest load and of the widest store of a thread."""

    def most(instruction: str) -> int:
        found = re.findall(rf"\b{instruction}\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)", ptx)
        return max((int(n or 1) * int(bits) // 8 for n, bits in found), default=0)

    return {"load bytes": most("ld"), "store bytes": most("st")}


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


def measure(chosen: dict[str, tuple[int, ...]]) -> kernel_limits.Table:
    """Figures of every kernel that the chosen calls launch, by call, kernel and capability."""
    table = {}
    for name, capabilities in chosen.items():
        kernels = table[name] = {}
        for label, launch in labelled(CALLS[name]).items() if capabilities else ():
            kernels[label] = {f"sm_{c}": compile_for(c, launch) for c in capabilities}
            for capability, figures in kernels[label].items():
                shown = "  ".join(f"{k} {v}" for k, v in figures.items())
                print(f"{name:28} {label:18} {capability}  {shown}", flush=True)
    return {name: kernels for name, kernels in table.items() if kernels}


def choose(only: str, tested: bool) -> dict[str, tuple[int, ...]]:
    """Capabilities of each call to compile for; says what is left to the full run."""
    chosen = {
        name: call.tested if tested else CAPABILITIES
        for name, call in CALLS.items()
        if only in name
    }
    for name, capabilities in chosen.items():
        if left := [f"sm_{c}" for c in CAPABILITIES if c not in capabilities]:
            print(f"{name}: {', '.join(left)} only without --check")
    return chosen


def main() -> int:
    """Print a line a kernel, then what is outside its limits; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="calls whose name contains this")
    parser.add_argument("--check", action="store_true", help="what the tests compile; compare it")
    parser.add_argument("--record", action="store_true", help="write the record and the document")
    args = parser.parse_args()
    table = measure(choose(args.only, tested=args.check))
    if args.record:
        traffic = {n: kernel_traffic.measure(CALLS[n].make) for n in table if n in TRAFFIC}
        kernel_limits.record(table, traffic, list(CALLS), triton.__version__)
    known = kernel_limits.read()
    limits = {name: call.limits for name, call in CALLS.items()}
    wrong = kernel_limits.outside(table, known, limits)
    if args.check:
        wrong += kernel_limits.changed(table, known, triton.__version__)
    print(*wrong, sep="\n")
    return int(bool(wrong))


TRAFFIC = ("N1 bf16", "N1 bf16 rank 6", "N16 bf16 rank 6")  # their bytes are in the document

if __name__ == "__main__":
    sys.exit(main())
