"""What the library does on a GPU: scans, whole models, a profile, and tiles to tune.

    python benchmarks/gpu.py scans models profile compiled [--only "stage 1"] [--minutes 8]
    python benchmarks/gpu.py --tune

Every result is compared before its time is printed: scans with float64 on the same GPU, models with
torch's own operators. Inputs are random, outputs start as NaN, other data lies in the cache before
each call, and times are medians between CUDA events; scans and models are timed as calls and as
CUDA graphs, which leave out what it takes to launch them. Peers run beside ours: attention, timm's
models, and mamba-ssm's kernel where it was built (benchmarks/GPU.md says how). Results go to
benchmarks/results/<gpu>.json, each section with its date and command, and to $OUT as well where
that is set. What fails or finds no time left is written down, and the exit status is 1.
"""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gpu_models
import gpu_scans
import gpu_tune
import torch
import triton
from gpu_limits import bytes_a_second, exponentials_a_second
from gpu_timing import Clock

from statescan.kernels import backends

RESULTS = Path(__file__).parent / "results"


class Section(NamedTuple):
    """Named rows of a kind: how one is measured, and how it is printed."""

    rows: dict[str, Callable[[], dict]]
    show: Callable[[str, dict], None]


def show_profile(name: str, row: dict) -> None:
    """A line for each kernel."""
    print(f"{name}: milliseconds of the kernels that take longest in a training step")
    for kernel, milliseconds in row.items():
        print(f"    {milliseconds:9.3f}  {kernel[:100]}")


def sections(clock: Clock, limits: dict, setting: gpu_models.Setting) -> dict[str, Section]:
    """Everything that can be measured."""

    def models(compiled: bool) -> dict[str, Callable[[], dict]]:
        measure = partial(gpu_models.measure, setting=setting, clock=clock, compiled=compiled)
        return {name: partial(measure, name) for name in gpu_models.variants(setting)}

    def of_lines(lines: dict, measure: Callable) -> dict[str, Callable[[], dict]]:
        return {name: partial(measure, line) for name, line in lines.items()}

    scans = partial(gpu_scans.measure, clock=clock, limits=limits)
    profile = partial(gpu_models.profile, setting, clock.device)
    tune = partial(gpu_tune.measure, clock=clock)
    return {
        "scans": Section(of_lines(gpu_scans.LINES, scans), gpu_scans.print_row),
        "models": Section(models(compiled=False), gpu_models.print_row),
        "profile": Section({setting.names[0]: profile}, show_profile),
        "compiled": Section(models(compiled=True), gpu_models.print_row),
        "tune": Section(of_lines(gpu_tune.LINES, tune), gpu_tune.print_row),
    }


def run(section: Section, only: str, deadline: float, keep: Callable[[dict], None]) -> list[str]:
    """Measure the rows of a section, keep them after each, and say which gave no figures."""
    rows, missing = {}, []
    for name, measure in section.rows.items():
        if only not in name:
            continue
        try:
            if time.monotonic() > deadline:
                raise TimeoutError("no time left")
            rows[name] = measure()
            section.show(name, rows[name])
            for part, reason in rows[name].get("missing parts", {}).items():
                missing.append(f"{name}, {part}: {reason}")
                print("NOT MEASURED", missing[-1])
        except Exception as error:  # wrong results, memory, compilers: the other rows go on
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            missing.append(f"{name}: {reason}")
            rows[name] = {"missing": reason}
            print("NOT MEASURED", missing[-1])
        sys.stdout.flush()
        keep(rows)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return missing


def measured_limits(clock: Clock) -> dict[str, float]:
    """What this GPU can do at most."""
    return {
        "bytes a second": bytes_a_second(clock),
        "exponentials a second": exponentials_a_second(clock),
    }


def machine(device: torch.device) -> dict[str, str]:
    """The GPU and the versions that results depend on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "gpu": gpu,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "selective_scan": backends()["selective_scan"][device.type],
    }


def save(results: dict, path: Path) -> None:
    """Write sections over those of the same name in a file, and in $OUT's copy of it."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known.update(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    if out := os.environ.get("OUT"):
        (Path(out) / path.name).write_text(path.read_text())


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("scans", "models", "profile", "compiled")
    parser.add_argument("sections", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--tune", action="store_true", help="time tiles of the scan instead")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--minutes", type=float, default=60, help="start no row after these")
    parser.add_argument("--seconds", type=float, default=0.2, help="to time each call for")
    parser.add_argument("--device", default="cuda", help="cpu tries the program out")
    parser.add_argument("--json", type=Path, help="where results go")
    args = parser.parse_args(argv)
    args.sections = ["tune"] if args.tune else list(args.sections)
    if unknown := [name for name in args.sections if name not in names]:
        parser.error(f"unknown sections {', '.join(unknown)}, expected of {', '.join(names)}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Print tables and write them as JSON; 1 if a row is missing, 2 without a GPU."""
    args = arguments(argv)
    deadline = time.monotonic() + 60 * args.minutes
    if args.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here that torch can use: nothing was measured.")
        return 2
    clock = Clock(args.device, args.seconds)
    about = machine(clock.device)
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    limits = measured_limits(clock)
    print(", ".join(f"{k} {v:.3g}" for k, v in limits.items()))
    slug = re.sub(r"\W+", "-", about["gpu"].lower()).strip("-")
    path = args.json or RESULTS / f"{slug}.json"
    command = shlex.join(["python", "benchmarks/gpu.py", *(sys.argv[1:] if argv is None else argv)])
    missing = []
    every = sections(clock, limits, gpu_models.Setting())
    for name in args.sections:
        print(f"\n{name}")
        when = datetime.now(UTC).date().isoformat()
        header = {"date": when, "command": command, **about, **limits}

        def keep(rows: dict, name: str = name, header: dict = header) -> None:
            save({name: {**header, "rows": rows}}, path)

        missing += run(every[name], args.only, deadline, keep)
    print(*missing, sep="\n")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
