"""What compiled kernels may need: written limits, the record of what they did, and its document."""

import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks/results/compiled_kernels.json"
DOCUMENT = ROOT / "docs/gpu.md"
COMMAND = "python benchmarks/compiled_kernels.py --record"
START, END = f"<!-- compiled kernels: {COMMAND} -->\n", "<!-- end -->\n"

RECORDED = "recorded"  # no more than the record says
LIMITS = {"registers": 255, "spilled": 0, "shuffles": 0, "barriers": 0, "shared": 0}
BACKWARD = {"spilled": 64, "shuffles": RECORDED}  # the gradients of B and C are sums over lanes

Figures = dict[str, int]
Table = dict[str, dict[str, dict[str, Figures]]]  # call → kernel → capability → figures


def read() -> dict:
    """The record."""
    return json.loads(RECORD.read_text())


def rows(table: Table) -> Iterator[tuple[str, str, str, Figures]]:
    """Call, kernel, capability and figures."""
    for call, kernels in table.items():
        for kernel, capabilities in kernels.items():
            for capability, figures in capabilities.items():
                yield call, kernel, capability, figures


def recorded(known: dict, call: str, kernel: str, capability: str) -> Figures:
    """Figures in the record; none where it does not know a kernel."""
    return known["calls"].get(call, {}).get(kernel, {}).get(capability, {})


def outside(table: Table, known: dict, own: dict[str, dict[str, dict]]) -> list[str]:
    """A sentence for each figure that is over its limit; `own` holds the calls' own limits."""
    wrong = []
    for call, kernel, capability, figures in rows(table):
        limits = LIMITS | (BACKWARD if kernel.startswith("backward") else {})
        limits |= own.get(call, {}).get(kernel, {})
        before = recorded(known, call, kernel, capability)
        for name, limit in limits.items():
            most = before.get(name, 0) if limit == RECORDED else limit
            if figures[name] > most:
                wrong.append(f"{call}, {kernel}, {capability}: {name} {figures[name]}, over {most}")
    return wrong


def changed(table: Table, known: dict, triton: str) -> list[str]:
    """A sentence for each figure that is not the recorded one; another Triton's may differ."""
    if triton != known["triton"]:
        print(f"recorded with Triton {known['triton']}, this is {triton}: limits alone count")
        return []
    wrong = []
    for call, kernel, capability, figures in rows(table):
        before = recorded(known, call, kernel, capability)
        wrong += [
            f"{call}, {kernel}, {capability}: {name} {value}, recorded {before.get(name)};"
            f" if that is meant, run {COMMAND}"
            for name, value in figures.items()
            if value != before.get(name)
        ]
    return wrong


def record(table: Table, traffic: dict, order: list[str], triton: str) -> None:
    """Write figures over the record's, and its tables into the document.

    Calls that are gone, and all of another Triton, are dropped.
    """
    known = read() if RECORD.exists() else {}
    kept = known if known.get("triton") == triton else {}
    calls, bytes_moved = kept.get("calls", {}) | table, kept.get("traffic", {}) | traffic
    new = {
        "triton": triton,
        "calls": {name: calls[name] for name in order if name in calls},
        "traffic": {name: bytes_moved[name] for name in order if name in bytes_moved},
    }
    RECORD.write_text(json.dumps(new, indent=1) + "\n")
    before, rest = DOCUMENT.read_text().split(START)
    after = rest.split(END, 1)[1]
    DOCUMENT.write_text(before + START + document(new) + END + after)


def document(known: dict) -> str:
    """The record as two tables of Markdown."""
    names = ("registers", "spilled", "shuffles", "exp2", "loads", "stores")
    lines = [
        f"\nTriton {known['triton']}, sm_80 / sm_90. Instructions are counted in the program text,"
        " loops once; in brackets the widest access of a thread, in bytes.\n",
        f"| call | kernel | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for call, kernels in known["calls"].items():
        for kernel, by_capability in kernels.items():
            cells = [cell(name, by_capability) for name in names]
            lines.append(f"| {call} | {kernel} | {' | '.join(cells)} |")
    lines += ["\nBytes an element of x, at the least: every array of a launch once.\n"]
    lines += ["| call | phase | moved by | all | floor |", "|---|---|---|---|---|"]
    for call, phases in known["traffic"].items():
        for phase, moved in phases.items():
            parts = ", ".join(f"{k} {v}" for k, v in moved.items() if k not in ("all", "floor"))
            lines.append(f"| {call} | {phase} | {parts} | {moved['all']} | {moved['floor']} |")
    return "\n".join(lines) + "\n\n"


def cell(name: str, by_capability: dict[str, Figures]) -> str:
    """A figure for each capability, once where they agree."""
    width = {"loads": "load bytes", "stores": "store bytes"}.get(name)
    shown = [
        f"{figures[name]} ({figures[width]})" if width else str(figures[name])
        for figures in by_capability.values()
    ]
    return " / ".join(dict.fromkeys(shown))
