"""Whole models on a GPU: images a second and memory, inference and training, beside timm's.

Training is one forward and backward pass; everything runs in bfloat16 by autocast, channels last.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple
from unittest import mock

import mamba_ssm_peer
import timm
import torch
from gpu_scans import worst
from gpu_timing import Clock, Wrong, captured, noted, peak_bytes, refuse
from torch import Tensor, nn

from statescan.kernels import _triton
from statescan.scans.scan2d import S6

OURS = "vmamba_tiny_s1l8"
ON_MAMBA_SSM = OURS + " on mamba-ssm"
PEERS = ("swin_tiny_patch4_window7_224", "convnext_tiny")
FLOAT32_ERROR, AUTOCAST_ERROR = 1e-3, 5e-2  # of logits, relative to their norm
CHECKED = 2  # images
FORWARD = S6.forward


class Setting(NamedTuple):
    """What models are measured on: images, and their side; models by name."""

    batch: int = 128
    size: int = 224
    names: tuple[str, ...] = (OURS, *PEERS)


@contextmanager
def without_triton() -> Iterator[None]:
    """Operators run in torch."""
    with mock.patch.object(_triton, "serves", return_value=False):
        yield


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products of float32 in float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def variants(setting: Setting) -> dict[str, str]:
    """Names of what is measured, and of the model that each is."""
    named = {name: name for name in setting.names}
    if mamba_ssm_peer.kernel() is not None:
        named[ON_MAMBA_SSM] = setting.names[0]
    return named


@contextmanager
def variant(name: str) -> Iterator[None]:
    """Where a model runs on mamba-ssm's kernel, put that in place of ours."""
    with ExitStack() as stack:
        if name == ON_MAMBA_SSM:
            stack.enter_context(mock.patch.object(S6, "forward", mamba_ssm_peer.s6_forward))
        yield


def build(name: str, device: torch.device) -> nn.Module:
    """A model with random weights, the same in every call."""
    torch.manual_seed(0)
    return timm.create_model(name).eval().to(device, memory_format=torch.channels_last)


def images(batch: int, size: int, device: torch.device) -> Tensor:
    """Random images."""
    rng = torch.Generator(device).manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=rng, device=device)
    return x.to(memory_format=torch.channels_last)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Inference in bfloat16 by autocast."""
    with torch.no_grad(), autocast(x):
        return model(x)


def autocast(x: Tensor) -> torch.autocast:
    """Autocast to bfloat16 that keeps no copies of weights: a captured graph must make its own."""
    return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)


def train(model: nn.Module, x: Tensor) -> None:
    """One forward and backward pass."""
    for parameter in model.parameters():
        parameter.grad = None
    with autocast(x):
        loss = model(x).float().square().mean()
    loss.backward()


def check(name: str, model: nn.Module, x: Tensor) -> tuple[float, Tensor]:
    """Error of the logits in float32, and the logits in torch's own operators."""
    with torch.no_grad(), without_tf32():
        got = model(x)
        with mock.patch.object(S6, "forward", FORWARD), without_triton():
            want = model(x)
    error = worst({"logits": got}, {"logits": want.double()})
    refuse(name, error, FLOAT32_ERROR)
    return error, want.double()


def modes(model: nn.Module, x: Tensor, compiled: bool) -> dict[str, Callable[[], tuple]]:
    """By name the ways of running a model, each what makes its inference and its training."""
    if compiled:
        fast = torch.compile(model)
        return {"compiled": lambda: (partial(logits, fast, x), partial(train, fast, x))}
    calls = partial(logits, model, x), partial(train, model, x)
    ways: dict[str, Callable[[], tuple]] = {"eager": lambda: calls}
    if x.is_cuda:
        ways["graph"] = lambda: tuple(map(captured, calls))
    return ways


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """All gradients as one."""
    return {"gradients": torch.cat([p.grad.double().flatten() for p in model.parameters()])}


def measure(name: str, setting: Setting, clock: Clock, compiled: bool) -> dict:
    """Images a second and memory of one variant in its modes, each compared before it is timed.

    Logits are compared with those of torch's own operators in float32, gradients with eager ones.
    """
    x = images(setting.batch, setting.size, clock.device)
    with variant(name):
        model = build(variants(setting)[name], clock.device)
        error, want = check(name, model, x[:CHECKED])
        train(model, x)
        known = gradients(model)
        if not known["gradients"].isfinite().all():
            raise Wrong(f"{name} has gradients that are no numbers: its time means nothing")
        row: dict = {"error": error, "modes": {}, "missing parts": {}}
        for mode, make in modes(model, x, compiled).items():
            with noted(row["missing parts"], mode):
                infer, learn = make()
                off = worst({"logits": infer()[:CHECKED]}, {"logits": want})
                refuse(f"{name}, {mode}", off, AUTOCAST_ERROR)
                learn()
                refuse(f"{name}, {mode}", worst(gradients(model), known), AUTOCAST_ERROR)
                speed = speeds(infer, learn, setting, clock, memory=mode != "graph")
                row["modes"][mode] = {"autocast error": off, **speed}
    return row


def speeds(
    infer: Callable, learn: Callable, setting: Setting, clock: Clock, *, memory: bool
) -> dict:
    """Images a second of inference and training, and peak memory."""
    row = {}
    for what, call in (("inference", infer), ("training", learn)):
        milliseconds = clock.time(call)
        row[what] = {
            "images a second": 1e3 * setting.batch / milliseconds.median,
            "ms": milliseconds,
            "peak bytes": peak_bytes(call, clock.device) if memory else None,
        }
    return row


def print_row(name: str, row: dict) -> None:
    """A line for each mode of a variant."""
    for mode, measured in row["modes"].items():
        cells = []
        for what in ("inference", "training"):
            peak = measured[what]["peak bytes"]
            memory = "" if peak is None else f" ({peak / 2**20:.0f} MiB)"
            cells.append(f"{what} {measured[what]['images a second']:.0f} images/s{memory}")
        print(f"{name:34} {mode:9} {'   '.join(cells)}   error {row['error']:.0e}")


def profile(setting: Setting, device: torch.device, top: int = 15) -> dict[str, float]:
    """Milliseconds of the kernels that take longest in one training step of our model."""
    x = images(setting.batch, setting.size, device)
    model = build(setting.names[0], device)
    train(model, x)
    activity = torch.profiler.ProfilerActivity
    which = [activity.CUDA] if device.type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=which, acc_events=True) as profiler:
        train(model, x)
        if device.type == "cuda":
            torch.cuda.synchronize()
    events = profiler.key_averages()
    cost = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = {event.key: getattr(event, cost) / 1e3 for event in events}
    return dict(sorted(spent.items(), key=lambda item: -item[1])[:top])
