"""Everything that wants a GPU, in at most nine minutes: `make gpu`.

    python benchmarks/on_gpu.py [tests scans models compiled]

Builds the C library where there is a compiler, runs the GPU tests side by side, then the
benchmarks. Every step has a time limit; one that fails or is cut off does not stop the others, and
the exit status is 1. Without a GPU it is 2. What is printed goes to $OUT/gpu.log too where that is
set, and results as `gpu.py` says.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parents[1]
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]  # other versions warn
LAST_WORDS = 8  # seconds of a step's last: it is interrupted first, so that pytest says what failed


class Step(NamedTuple):
    """A command of Python's, and the seconds it may take."""

    name: str
    arguments: list[str]
    seconds: float


def with_devices() -> list[str]:
    """Tests of operators that run on a GPU where there is one."""
    folders = (ROOT / "tests/kernels", ROOT / "tests/scans")
    files = sorted(f for folder in folders for f in folder.glob("test_*.py"))
    return [str(f) for f in files if "torch.cuda.is_available()" in f.read_text()]


def steps() -> dict[str, list[Step]]:
    """All steps by name; those of one name run at the same time."""
    gpu = str(ROOT / "benchmarks/gpu.py")
    by_type = [
        Step(f"{n}, {t}", [*PYTEST, str(ROOT / f"tests/gpu/test_{n}.py"), "-k", which], 210)
        for n, types in (("operators", "float32 bfloat16 float16"), ("models", "float32 bfloat16"))
        for t in types.split()
        for which in [f"torch.{t} or not torch."]
    ]
    by_file = [Step(Path(f).stem, [*PYTEST, f], 210) for f in with_devices()]
    return {
        "tests": [*by_type, *by_file],
        "scans": [Step("scans", [gpu, "scans", "--minutes", "1.6"], 115)],
        "models": [Step("models and profile", [gpu, "models", "profile", "--minutes", "1.7"], 120)],
        "compiled": [Step("compiled", [gpu, "compiled", "--minutes", "0.5"], 70)],
    }


def build() -> str:
    """Build the C library, which the tests compare with; a sentence on how that went."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "no C compiler: results are compared with pure torch"
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "C library not built in a minute: results are compared with pure torch"
    return "C library built" if done.returncode == 0 else "C library not built:\n" + done.stderr


def environment(steps: int) -> dict[str, str]:
    """Processors shared out among steps that run at the same time, and no threads that spin."""
    threads = -(-(os.cpu_count() or 1) // steps)
    return os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}


def run(together: list[Step]) -> list[tuple[Step, str, str]]:
    """Run steps at the same time: each with what became of it and what it printed."""
    started = time.monotonic()
    options = {"cwd": ROOT, "env": environment(len(together))}
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in together]
        running = [
            subprocess.Popen([sys.executable, *step.arguments], stdout=log, stderr=log, **options)
            for step, log in zip(together, logs, strict=True)
        ]
        late = [
            is_late(process, started + step.seconds - LAST_WORDS)
            for step, process in zip(together, running, strict=True)
        ]
        became = [
            wait(process, step, started + step.seconds, late=late)
            for step, process, late in zip(together, running, late, strict=True)
        ]
        for log in logs:
            log.seek(0)
        return [(*parts, log.read()) for *parts, log in zip(together, became, logs, strict=True)]


def is_late(process: subprocess.Popen, until: float) -> bool:
    """Whether a step's process still runs at a time; it is interrupted then."""
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return True
    return False


def wait(process: subprocess.Popen, step: Step, until: float, *, late: bool) -> str:
    """What becomes of a step's process, which is killed when its time is up."""
    try:
        status = process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if late:
        return f"cut off after {step.seconds:.0f} s"
    return "passed" if status == 0 else f"failed ({status})"


def report(text: str) -> None:
    """Print, and write to $OUT's log."""
    print(text, flush=True)
    if out := os.environ.get("OUT"):
        with Path(out, "gpu.log").open("a") as log:
            print(text, file=log)


def main(chosen: list[str]) -> int:
    """Run the chosen steps, or all; 1 if one failed, 2 without a GPU."""
    every = steps()
    if unknown := [name for name in chosen if name not in every]:
        report(f"unknown steps {', '.join(unknown)}, expected of {', '.join(every)}")
        return 2
    if not torch.cuda.is_available():
        report("There is no GPU here that torch can use: nothing was run.")
        return 2
    report(build())
    summary = []
    for name in chosen or every:
        for step, became, printed in run(every[name]):
            report(f"\n{step.name}: {became}\n{printed}")
            summary.append((step.name, became))
    report("\n" + "\n".join(f"{name}: {became}" for name, became in summary))
    return int(any(became != "passed" for _, became in summary))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
