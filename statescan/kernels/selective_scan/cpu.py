"""The selective scan in C (`cpu.h`); the interface is `streaming.py`'s."""

import ctypes

from torch import Tensor

from .. import _c
from .._arguments import compute_dtype
from .streaming import CHUNK

MOST_STATES = 512  # a channel; sums over a chunk of them lie on the thread's stack
SIZES = ("batch", "L", "C", "K", "N", "R", "T", "block", "own_x", "apart", "once")
ARRAYS = (
    *("x", "dt", "A", "B", "Cm", "D", "weight", "bias", "routes", "y", "saved"),
    *("dy", "dx", "dz", "dh", "dA", "dD", "dbias", "dB", "dC", "ddt", "dweight"),
)


class Scan(ctypes.Structure):
    """`scan` of cpu.h."""

    _fields_ = [(n, ctypes.c_int64) for n in SIZES] + [(n, ctypes.c_void_p) for n in ARRAYS]


class Call(_c.Call):
    """One call of the C kernel, with its inputs in the form that it reads.

    Arguments are those of `streaming.forward`.
    """

    def __init__(self, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge):
        self.batch, self.length, self.K, rank = dt.shape
        self.channels, self.N = A.shape[1:]
        self.chunks = -(-routes.shape[1] // CHUNK)
        routes = routes.int().contiguous()
        dtype = compute_dtype(x, dt, A, B, C, D, dt_weight, dt_bias)
        block = _c.block(self.channels, dtype)
        self.blocks = -(-self.channels // block)
        super().__init__(
            Scan,
            dtype,
            batch=self.batch,
            L=self.length,
            C=self.channels,
            K=self.K,
            N=self.N,
            R=0 if dt_weight is None else rank,
            T=routes.shape[1],
            block=block,
            own_x=x.dim() == 4,
            apart=not merge,
        )
        self.items = self.batch * self.blocks
        self.read(x=x, dt=dt, A=A.mT, B=B, Cm=C, D=D, bias=dt_bias)
        if dt_weight is not None:
            self.read(weight=dt_weight.mT)
        self.point(routes=routes)


def forward(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once) -> tuple[Tensor, Tensor]:
    """As `streaming.forward`: y and the states between chunks."""
    call = Call(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge)
    rows = (call.batch, call.length) if merge else (call.batch, call.length, call.K)
    y = call.zeros(*rows, call.channels)
    saved = call.empty(call.chunks + 1, call.K, call.batch, call.N, call.channels)
    saved[0] = 0
    call.point(y=y, saved=saved)
    call.run("selective_scan_forward", call.items)
    return y.to(x.dtype), saved


def backward(
    dy, saved, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D, dt_weight and dt_bias, as `streaming.backward`."""
    call = Call(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge)
    parameters, places = (call.batch, call.K), (call.blocks, *B.shape)
    dx = call.zeros(*x.shape)
    dh, dA = (call.zeros(*parameters, call.N, call.channels) for _ in range(2))
    dD, dbias = (call.zeros(*parameters, call.channels) for _ in range(2))
    dB, dC = (call.zeros(*places) for _ in range(2))
    call.read(dy=dy, saved=saved)
    call.point(dx=dx, dh=dh, dA=dA, dD=dD, dbias=dbias, dB=dB, dC=dC)
    if dt_weight is None:
        call.struct.once = once
        ddt, dweight = (call.empty if once else call.zeros)(1, *dt.shape), None
        call.point(dz=ddt)
    else:
        ddt = call.zeros(call.blocks, *dt.shape)
        dweight = call.zeros(*parameters, dt.shape[-1], call.channels)
        call.point(ddt=ddt, dweight=dweight)
    call.run("selective_scan_backward", call.items)
    dweight = None if dweight is None else dweight.sum(0).mT
    ddt = ddt[0] if len(ddt) == 1 else ddt.sum(0)
    grads = (dx, ddt, dA.sum(0).mT, dB.sum(0), dC.sum(0), dD.sum(0), dweight, dbias.sum(0))
    given = (x, dt, A, B, C, D, dt_weight, dt_bias)
    return tuple(
        None if g is None else g.to(t.dtype).contiguous() for g, t in zip(grads, given, strict=True)
    )
