"""Time of a call on a device, the bytes it keeps, and memory poisoned before it."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

WARM_UP = 3  # calls
MOST = 200  # calls timed


class Wrong(RuntimeError):
    """A result that is too far off for its time to mean anything."""


def refuse(name: str, error: float, limit: float) -> None:
    """Stop where an error is over its limit, or no number."""
    if not error <= limit:
        raise Wrong(f"{name} is off by {error:.1e}, more than {limit:.1e}: its time means nothing")


@contextmanager
def noted(missing: dict[str, str], name: str) -> Iterator[None]:
    """A part of a row whose failure is noted under its name and costs no other part."""
    try:
        yield
    except Exception as error:  # wrong results, memory, compilers, captures
        missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]


class Timing(NamedTuple):
    """Milliseconds of a call: the median, and what a fifth of the calls were under and over."""

    median: float
    low: float
    high: float


class Clock:
    """Times calls on a device, each with other data than its own in the cache.

    Args:
        device: "cuda", timed with events on the stream; or "cpu", by the wall.
        seconds: how long to time a call for.
        flush: bytes written before each call, more than the cache holds.
    """

    def __init__(self, device: str, seconds: float = 0.3, flush: int = 2**28):
        self.device = torch.device(device)
        self.seconds = seconds
        self.other = torch.empty(flush, dtype=torch.uint8, device=device)

    def time(self, call: Callable[[], object]) -> Timing:
        """Time a call that was warmed up."""
        for _ in range(WARM_UP):
            call()
        once = self._run(call, 1)[0]
        times = self._run(call, max(5, min(MOST, int(1e3 * self.seconds / max(once, 1e-3)))))
        low, median, high = torch.tensor(times).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
        return Timing(median, low, high)

    def _run(self, call: Callable[[], object], times: int) -> list[float]:
        if self.device.type != "cuda":
            return [self._by_the_wall(call) for _ in range(times)]
        pairs = []
        for _ in range(times):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.other.zero_()
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def _by_the_wall(self, call: Callable[[], object]) -> float:
        self.other.zero_()
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """A call as a CUDA graph, whose replay launches all its kernels at once into one result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> object:
        graph.replay()
        return result

    return replay


def kept_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that are allocated after a call, while its result is held, and were not before.

    None where the device does not count them.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    result = call()
    after = torch.cuda.memory_allocated()
    del result
    return after - before


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call needs at most beside those allocated before; None as above."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN, so that what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of operators that are not deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.utils.deterministic.fill_uninitialized_memory = filled
