"""The C kernels (`library.c`), opened with ctypes: finding the library, handing it arrays, threads.

The library lies beside this folder where the package was installed with a C compiler at hand.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

PATH = Path(__file__).parents[1] / "libstatescan_cpu.so"
BLOCK_BYTES = 384  # of channels, that one item works on at most
CACHE_LINE = 64  # bytes
TYPES = {torch.float32: "f32", torch.float64: "f64"}


@cache
def library() -> ctypes.CDLL | None:
    """The C library, or None where it was not built or does not load."""
    try:
        return ctypes.CDLL(str(PATH))
    except OSError:
        return None


INSTRUCTION_SETS = ("avx512", "avx2", "any")  # best first; each machine runs those after its own


@cache
def instruction_set() -> str:
    """Which of the library's versions this machine runs best."""
    name = library().instruction_set
    name.restype = ctypes.c_char_p
    return name().decode()


def describe() -> str:
    """What serves an operator that has a C kernel on a CPU, and why."""
    if library():
        return f"C kernel ({PATH.name}, {instruction_set()})"
    return f"streaming torch: {PATH.name} {'does not load here' if PATH.exists() else 'not built'}"


class Team(ctypes.Structure):
    """`team` of library.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("run", "problem")),
        ("items", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("number", "threads")),
    ]


@cache
def openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch has loaded, where it is GNU's and can be asked for threads.

    Threads of our own would compete with torch's, which go on spinning after each of its calls.
    """
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except (AttributeError, OSError):  # no such flag on Windows; another runtime
        return None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of one process: a forked child cannot use its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="statescan")


PROCESS = os.getpid()


def _run_parallel(function, problem: ctypes.Structure, items: int, threads: int) -> None:
    """Run a kernel's items on some threads; ctypes lets go of the GIL."""
    gomp = openmp() if os.getpid() == PROCESS else None  # GNU's runtime does not survive a fork
    if gomp:
        address = lambda f: ctypes.cast(f, ctypes.c_void_p).value  # noqa: E731
        team = Team(
            address(function),
            ctypes.addressof(problem),
            items,
            address(gomp.omp_get_thread_num),
            address(gomp.omp_get_num_threads),
        )
        gomp.GOMP_parallel(library().run_share, ctypes.byref(team), threads, 0)
        return
    edges = [items * i // threads for i in range(threads + 1)]
    shares = [(ctypes.c_int64(first), ctypes.c_int64(last)) for first, last in pairwise(edges)]
    pool = _pool(os.getpid(), threads)
    list(pool.map(lambda share: function(ctypes.byref(problem), *share), shares))


def block(channels: int, dtype: torch.dtype) -> int:
    """How many channels an item works on: whole cache lines, an even number of items at best."""
    line, most = CACHE_LINE // dtype.itemsize, BLOCK_BYTES // dtype.itemsize
    pairs = -(-channels // (2 * most))
    return min(most, line * -(-channels // (2 * pairs * line)))


class Call:
    """One call of a kernel: its struct, and the arrays that must live until it returns.

    Args:
        struct: class of the kernel's struct, whose last fields are pointers.
        dtype: torch.float32 or torch.float64.
        sizes: the struct's integers.
    """

    def __init__(self, struct: type[ctypes.Structure], dtype: torch.dtype, **sizes: int):
        self.dtype = dtype
        self.struct = struct(**sizes)
        self.arrays: list[Tensor] = []

    def read(self, **tensors: Tensor) -> None:
        """Hand over inputs, in the call's dtype and contiguous."""
        self.point(**{name: t.to(self.dtype).contiguous() for name, t in tensors.items()})

    def point(self, **tensors: Tensor) -> None:
        """Hand over arrays as they are."""
        self.arrays.extend(tensors.values())
        for name, tensor in tensors.items():
            setattr(self.struct, name, tensor.data_ptr())

    def zeros(self, *shape: int) -> Tensor:
        """An array that the kernel adds to."""
        return torch.zeros(shape, dtype=self.dtype)

    def empty(self, *shape: int) -> Tensor:
        """An array that the kernel fills."""
        return torch.empty(shape, dtype=self.dtype)

    def run(self, name: str, items: int) -> None:
        """Run all items on as many threads as torch uses."""
        function = getattr(library(), f"{name}_{TYPES[self.dtype]}_{instruction_set()}")
        threads = min(torch.get_num_threads(), items)
        if threads > 1:
            _run_parallel(function, self.struct, items, threads)
        else:
            function(ctypes.byref(self.struct), ctypes.c_int64(0), ctypes.c_int64(items))
