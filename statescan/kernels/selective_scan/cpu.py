"""The selective scan in C (`cpu.c`), called through ctypes; the interface is `streaming.py`'s.

The library lies beside this file where the package was installed with a C compiler at hand.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from .streaming import CHUNK, compute_dtype

PATH = Path(__file__).with_name("libstatescan_cpu.so")
VECTOR_BYTES = 64
SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
SIZES = ("batch", "L", "C", "K", "N", "R", "T", "block", "own_x", "apart")
ARRAYS = (
    *("x", "dt", "A", "B", "Cm", "D", "weight", "bias", "routes", "y", "saved"),
    *("dy", "dx", "dz", "dA", "dD", "dbias", "dB", "dC"),
)


class Problem(ctypes.Structure):
    """`problem` of cpu.c."""

    _fields_ = [(n, ctypes.c_int64) for n in SIZES] + [(n, ctypes.c_void_p) for n in ARRAYS]


@cache
def library() -> ctypes.CDLL | None:
    """The C library, or None where it was not built or does not load."""
    try:
        return ctypes.CDLL(str(PATH))
    except OSError:
        return None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of one process: a forked child cannot use its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="statescan")


class Call:
    """One call of the C library: its inputs in the form that it reads, and their sizes.

    Arguments are those of `streaming.forward`. `new(*shape)` makes an array of zeros.
    """

    def __init__(self, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge):
        self.batch, self.length, self.K, rank = dt.shape
        self.channels, self.N = A.shape[1:]
        self.dtype = compute_dtype(x, dt, A, B, C)
        block = 4 if self.N == 1 else 1  # vectors: few enough states for the innermost cache
        self.blocks = -(-self.channels // (block * VECTOR_BYTES // self.dtype.itemsize))
        self.chunks = -(-routes.shape[1] // CHUNK)
        rank = 0 if dt_weight is None else rank
        sizes = (self.batch, self.length, self.channels, self.K, self.N, rank, routes.shape[1])
        self.problem = Problem(*sizes, block, x.dim() == 4, not merge)
        self.arrays: list[Tensor] = []  # kept alive while the library reads them
        self.read(x=x, dt=dt, A=A.mT, B=B, Cm=C, D=D, bias=dt_bias)
        if dt_weight is not None:
            self.read(weight=dt_weight.mT)
        self.point(routes=routes.int().contiguous())

    def read(self, **tensors: Tensor) -> None:
        """Hand over inputs, in the compute dtype and contiguous."""
        self.point(**{name: t.to(self.dtype).contiguous() for name, t in tensors.items()})

    def point(self, **tensors: Tensor) -> None:
        """Hand over arrays as they are."""
        self.arrays.extend(tensors.values())
        for name, tensor in tensors.items():
            setattr(self.problem, name, tensor.data_ptr())

    def new(self, *shape: int) -> Tensor:
        """Zeros in the compute dtype."""
        return torch.zeros(shape, dtype=self.dtype)

    def run(self, name: str) -> None:
        """Run all items on as many threads as torch uses; ctypes lets go of the GIL."""
        function: Callable = getattr(library(), f"{name}_{SUFFIXES[self.dtype]}")
        items = self.batch * self.blocks
        threads = min(torch.get_num_threads(), items)
        edges = [items * i // max(threads, 1) for i in range(threads + 1)]
        parts = [
            (ctypes.byref(self.problem), ctypes.c_int64(first), ctypes.c_int64(last))
            for first, last in pairwise(edges)
        ]
        if threads > 1:
            list(_pool(os.getpid(), threads).map(lambda part: function(*part), parts))
        elif parts:
            function(*parts[0])


def forward(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge) -> tuple[Tensor, Tensor]:
    """As `streaming.forward`: y and the states between chunks."""
    call = Call(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge)
    rows = (call.batch, call.length) if merge else (call.batch, call.length, call.K)
    y = call.new(*rows, call.channels)
    saved = call.new(call.chunks + 1, call.K, call.batch, call.N, call.channels)
    call.point(y=y, saved=saved)
    call.run("forward")
    return y.to(x.dtype), saved


def backward(
    dy, saved, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, dt_weight and dt_bias, as `streaming.backward`."""
    call = Call(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge)
    parameters, places = (call.batch, call.K), (call.blocks, *B.shape)
    dx, dz = call.new(*x.shape), call.new(*dt.shape[:3], call.channels)
    dA = call.new(*parameters, call.N, call.channels)
    dD, dbias = (call.new(*parameters, call.channels) for _ in range(2))
    dB, dC = (call.new(*places) for _ in range(2))
    call.read(dy=dy, saved=saved)
    call.point(dx=dx, dz=dz, dA=dA, dD=dD, dbias=dbias, dB=dB, dC=dC)
    call.run("backward")
    ddt, dweight = (dz, None) if dt_weight is None else _low_rank(dz, dt, dt_weight)
    grads = (dx, ddt, dA.sum(0).mT, dB.sum(0), dC.sum(0), dD.sum(0), dweight, dbias.sum(0))
    given = (x, dt, A, B, C, D, dt_weight, dt_bias)
    return tuple(
        None if g is None else g.to(t.dtype).contiguous() for g, t in zip(grads, given, strict=True)
    )


def _low_rank(dz: Tensor, dt: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of dt (B, L, K, R) and its weight (K, C, R) from dz (B, L, K, C)."""
    by_route = dz.flatten(0, 1).transpose(0, 1)  # (K, B·L, C)
    factors = dt.to(dz.dtype).flatten(0, 1).transpose(0, 1)
    ddt = torch.bmm(by_route, weight.to(dz.dtype)).transpose(0, 1)
    return ddt.reshape(dt.shape), torch.bmm(by_route.mT, factors)
