"""The selective scan on a GPU: its lines, their floors, their check, and peers beside it."""

from collections.abc import Callable
from typing import NamedTuple

import mamba_ssm_peer
import torch
import torch.nn.functional as F
from gpu_timing import Clock, captured, kept_bytes, noted, poisoned, refuse
from torch import Tensor

from statescan.kernels import selective_scan
from statescan.scans.routes import resolve_routes, route_table

Inputs = dict[str, Tensor]
LEAST_ERROR = 1e-4  # of a result, relative to its norm; 3 of the type's eps where that is more
PEERS_ERROR = 5  # as many times as much: dt is rounded once it is expanded


class Line(NamedTuple):
    """A problem: batch, height, width, channels, routes (a set's name), states, rank of dt."""

    batch: int
    H: int
    W: int
    channels: int
    routes: str
    N: int
    rank: int | None = None
    dtype: torch.dtype = torch.bfloat16


STAGES = ((56, 192, 6), (28, 384, 12), (14, 768, 24), (7, 1536, 48))  # side, channels, rank


def lines() -> dict[str, Line]:
    """All problems by name, those that matter most first."""
    named = {
        "VMamba-T stage 1, batch 1, 1280x800, N=1": Line(1, 200, 320, 192, "cross", 1, 6),
        "Vim-T, batch 128, N=16": Line(128, 14, 14, 384, "bidirectional", 16, 12),
        "VMamba-T stage 3, batch 1, 1280x800, N=1": Line(1, 50, 80, 768, "cross", 1, 24),
    }
    for stage, (side, channels, R) in enumerate(STAGES, start=1):
        for kind, N, rank in (("N=1", 1, R), ("N=1, full dt", 1, None), ("N=16", 16, R)):
            line = Line(128, side, side, channels, "cross", N, rank)
            named[f"VMamba-T stage {stage}, batch 128, {kind}"] = line
    return dict(sorted(named.items(), key=lambda item: "stage 1" not in item[0]))


LINES = lines()


class Scan(NamedTuple):
    """A scan to time: its inputs, all leaves, and what computes y from them."""

    inputs: Inputs
    compute: Callable[[Inputs], Tensor]


def make_inputs(line: Line, device: torch.device, seed: int = 0) -> tuple[Inputs, Tensor]:
    """Random inputs with step sizes as in a model, and the route table."""
    table = route_table(resolve_routes(line.routes), line.H, line.W, device)
    (K, L), C, N = table.shape, line.channels, line.N
    rng = torch.Generator(device).manual_seed(seed)
    randn = lambda *shape: torch.randn(shape, generator=rng, device=device)  # noqa: E731
    inputs = {
        "x": randn(line.batch, L, C).to(line.dtype),
        "dt": randn(line.batch, L, K, line.rank or C).to(line.dtype),
        "A": -torch.arange(1.0, N + 1, device=device).repeat(K, C, 1),
        "B": randn(line.batch, L, K, N).to(line.dtype),
        "C": randn(line.batch, L, K, N).to(line.dtype),
        "D": 1 + randn(K, C) / 10,
        "dt_bias": randn(K, C) - 4,
    }
    if line.rank:
        inputs["dt_weight"] = randn(K, C, line.rank) * line.rank**-0.5
    return {name: t.requires_grad_() for name, t in inputs.items()}, table


def ours(inputs: Inputs, table: Tensor) -> Scan:
    """The library's operator."""
    return Scan(inputs, lambda given: selective_scan(**given, routes=table, permutation=True))


def mamba_ssm(inputs: Inputs, table: Tensor, line: Line) -> Scan:
    """mamba-ssm's kernel on the same numbers, in its own layout and order."""

    def in_order(t: Tensor) -> Tensor:  # (B, L, K, ·) → (B, K, ·, L)
        t = t.permute(0, 2, 3, 1)
        return t.gather(-1, table.long()[:, None].expand(t.shape)).contiguous()

    given = {name: t.detach() for name, t in inputs.items()}
    given["x"] = given["x"].mT.contiguous()
    given |= {name: in_order(given[name]) for name in ("dt", "B", "C")}

    def compute(given: Inputs) -> Tensor:
        weight = given.get("dt_weight")
        rest = {name: t for name, t in given.items() if name != "dt_weight"}
        return mamba_ssm_peer.scan(**rest, dt_weight=weight, routes=line.routes, H=line.H, W=line.W)

    return Scan({name: t.requires_grad_() for name, t in given.items()}, compute)


def attention(line: Line, device: torch.device) -> Scan:
    """Softmax attention of as many positions and channels, in heads of 64, without projections."""
    heads = max(1, line.channels // 64)
    shape = (line.batch, heads, line.H * line.W, line.channels // heads)
    rng = torch.Generator(device).manual_seed(0)
    inputs = {
        name: torch.randn(shape, generator=rng, device=device, dtype=line.dtype).requires_grad_()
        for name in ("query", "key", "value")
    }
    return Scan(inputs, lambda given: F.scaled_dot_product_attention(**given))


def run(scan: Scan, dy: Tensor) -> dict[str, Tensor]:
    """Output and gradients."""
    y = scan.compute(scan.inputs)
    grads = torch.autograd.grad(y, list(scan.inputs.values()), dy)
    return {"y": y.detach()} | dict(zip(scan.inputs, grads, strict=True))


def exact(inputs: Inputs, table: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """The same in float64, in torch's own operators."""
    wide = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    return run(ours(wide, table), dy.double())


def worst(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """The largest error of a result, relative to its norm; NaN where anything is."""
    errors = [
        torch.linalg.vector_norm(got[name].double() - value)
        / torch.linalg.vector_norm(value).clamp_min(1e-30)
        for name, value in want.items()
    ]
    return float(torch.stack(errors).max())


def check(line: Line, scan: Scan, dy: Tensor, want: dict[str, Tensor]) -> float:
    """Error of our scan against float64, on memory that held NaN."""
    with poisoned():
        error = worst(run(scan, dy), want)
    refuse("ours", error, limit(line))
    return error


def check_mamba_ssm(line: Line, scan: Scan, dy: Tensor, want: dict[str, Tensor]) -> float:
    """The same of mamba-ssm's, in whose layout the results are."""
    with poisoned():
        error = worst(run(scan, dy.mT.contiguous()), want)
    refuse("mamba-ssm", error, PEERS_ERROR * limit(line))
    return error


def limit(line: Line) -> float:
    """The largest error of our scan."""
    return max(LEAST_ERROR, 3 * torch.finfo(line.dtype).eps)


def peer_layout(results: dict[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    """Results and gradients in mamba-ssm's layout: channels first, in each route's order."""
    moved = dict(results)
    for name in ("x", "y"):
        moved[name] = results[name].mT
    for name in ("dt", "B", "C"):
        t = results[name].permute(0, 2, 3, 1)
        moved[name] = t.gather(-1, table.long()[:, None].expand(t.shape))
    return moved


def check_attention(scan: Scan) -> float:
    """Error of the first queries of the last head against float64."""
    q, k, v = (t.detach()[-1, -1].double() for t in scan.inputs.values())
    want = ((q[:64] @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v
    with torch.no_grad(), poisoned():
        got = scan.compute(scan.inputs)[-1, -1, :64]
    error = worst({"y": got}, {"y": want})
    refuse("attention", error, max(LEAST_ERROR, 3 * torch.finfo(got.dtype).eps))
    return error


def floors(line: Line, inputs: Inputs, table: Tensor, limits: dict) -> dict[str, float]:
    """Milliseconds that forward and backward take at least: for their bytes, for exponentials.

    Bytes: every input and result once. Exponentials: at every step and channel one for each state
    and two for softplus, as forward as again in backward.
    """
    given = sum(t.nbytes for t in inputs.values())
    x = inputs["x"].nbytes
    steps = line.batch * table.numel() * line.channels
    a_byte, a_number = 1e3 / limits["bytes a second"], 1e3 / limits["exponentials a second"]
    exponentials = steps * (line.N + 2) * a_number
    return {
        "forward bytes": (given + x) * a_byte,
        "backward bytes": (2 * given + x) * a_byte,
        "forward exponentials": exponentials,
        "backward exponentials": exponentials,
    }


def times(name: str, scan: Scan, clock: Clock, missing: dict[str, str]) -> dict[str, dict]:
    """Milliseconds of forward, and of forward with backward: calls, and on a GPU graphs of them."""
    leaves = list(scan.inputs.values())
    dy = torch.randn_like(scan.compute(scan.inputs))

    def forward() -> Tensor:
        with torch.no_grad():
            return scan.compute(scan.inputs)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(scan.compute(scan.inputs), leaves, dy)

    calls = {"forward": forward, "both": both}
    row: dict[str, dict] = {"calls": {k: clock.time(call) for k, call in calls.items()}}
    if clock.device.type == "cuda":
        with noted(missing, f"graph of {name}"):
            row["graph"] = {k: clock.time(captured(call)) for k, call in calls.items()}
    row["kept bytes"] = kept_bytes(lambda: scan.compute(scan.inputs), clock.device)
    return row


def peers(line: Line, inputs: Inputs, table: Tensor, dy: Tensor, want: Inputs) -> dict:
    """By the names of the peers that are here: what makes each, and gives its error."""

    def theirs() -> tuple[Scan, float]:
        scan = mamba_ssm(inputs, table, line)
        return scan, check_mamba_ssm(line, scan, dy, peer_layout(want, table))

    def softmax() -> tuple[Scan, float]:
        scan = attention(line, table.device)
        return scan, check_attention(scan)

    built = mamba_ssm_peer.kernel() is not None
    return ({"mamba-ssm": theirs} if built else {}) | {"attention": softmax}


def measure(line: Line, clock: Clock, limits: dict) -> dict:
    """Errors, times, floors and ratios of ours and of every peer that is here.

    Ours come first, and a peer or a graph that fails costs no figures but its own.
    """
    inputs, table = make_inputs(line, clock.device)
    rng = torch.Generator(clock.device).manual_seed(1)
    dy = torch.randn(inputs["x"].shape, generator=rng, device=clock.device).to(line.dtype)
    want = exact(inputs, table, dy)
    scan = ours(inputs, table)
    missing: dict[str, str] = {}
    row = {"floor ms": floors(line, inputs, table, limits), "missing parts": missing}
    row["error"] = {"ours": check(line, scan, dy, want)}
    row["scans"] = {"ours": times("ours", scan, clock, missing)}
    for name, peer in peers(line, inputs, table, dy, want).items():
        with noted(missing, name):
            scan, row["error"][name] = peer()
            row["scans"][name] = times(name, scan, clock, missing)
    return row


def kernel_times(row: dict, scan: str) -> tuple[float, float]:
    """Milliseconds of forward and of backward alone: the graphs' where there are some."""
    measured = row["scans"][scan]
    best = measured.get("graph", measured["calls"])
    forward, both = best["forward"][0], best["both"][0]
    return forward, both - forward


def print_row(name: str, row: dict) -> None:
    """A line for each scan: times, how many times its floors and ours they are, memory kept."""
    floor = row["floor ms"]
    ours_forward, ours_backward = kernel_times(row, "ours")
    for i, (scan, measured) in enumerate(row["scans"].items()):
        forward, backward = kernel_times(row, scan)
        kept = measured["kept bytes"]
        memory = "–" if kept is None else f"{kept / 2**20:.0f} MiB"
        text = f"{forward:9.3f} {backward:9.3f} ms  calls {measured['calls']['both'][0]:8.3f} ms"
        if scan == "ours":
            parts = ("bytes", "exponentials")
            over = (
                f"{forward / floor[f'forward {part}']:.2f}x/"
                f"{backward / floor[f'backward {part}']:.2f}x {part}"
                for part in parts
            )
            text += "  of the floors: " + ", ".join(over)
        else:
            both = (forward + backward) / (ours_forward + ours_backward)
            text += f"  {forward / ours_forward:.2f}x forward, {both:.2f}x both"
        print(f"{'' if i else name:44} {scan:10} {text}  {memory}  {row['error'][scan]:.0e}")
