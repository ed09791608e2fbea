"""Merging, layer norm and gate in Triton: one pass forward, one backward.

Symbols and shapes are those of reference.py. A program holds ROWS positions of one sample at a
time, all their channels in registers, so that mean and variance need no second read. Rows of y,
gate and dy have any stride between samples, positions and routes.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(tile, L, C, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Sample and positions (ROWS, 1) of a tile, its channels (1, BLOCK), and what is inside."""
    tiles = tl.cdiv(L, ROWS)
    b = (tile // tiles).to(tl.int64)
    p = (tile % tiles * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    c = tl.arange(0, BLOCK)[None, :]
    return b, p, c, (p < L) & (c < C)


@triton.jit
def merge(at, step, inside, K: tl.constexpr):
    """Sum of K rows that lie `step` apart, zero outside."""
    s = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    for _ in tl.static_range(K - 1):
        at += step
        s += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return s


@triton.jit
def normalise(s, inside, C, eps):
    """Rows of zero mean and unit variance, zero outside, and what they were multiplied with."""
    centred = tl.where(inside, s - tl.sum(s, 1, keep_dims=True) / C, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1, keep_dims=True) / C + eps)
    return tl.where(inside, centred * rstd, 0.0), rstd


@triton.jit
def affine(n, weight, bias, c, C, HAS_BIAS: tl.constexpr):
    """Scaled and shifted rows, and the scale."""
    w = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)
    out = n * w
    if HAS_BIAS:
        out += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    return out, w


@triton.jit(do_not_specialize=["L"])
def forward(
    y, weight, bias, gate, out, merged,
    y_batch, y_row, y_route, gate_batch, gate_row, L, C, eps,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, GATED: tl.constexpr, SAVE: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The result (B, L, C), and with SAVE the sum over the routes, (B, L, C)."""
    b, p, c, inside = tile_of(tl.program_id(0), L, C, BLOCK, ROWS)
    s = merge(y + b * y_batch + p * y_row + c, y_route, inside, K)
    to = (b * L + p) * C + c
    if SAVE:
        tl.store(merged + to, s, mask=inside)
    n, _ = normalise(s, inside, C, eps)
    value, _ = affine(n, weight, bias, c, C, HAS_BIAS)
    if GATED:
        z = tl.load(gate + b * gate_batch + p * gate_row + c, mask=inside, other=0.0)
        z = z.to(tl.float32)
        value *= z * tl.sigmoid(z)
    tl.store(out + to, value, mask=inside)


@triton.jit(do_not_specialize=["batch", "L"])
def backward(
    dout, y, weight, bias, gate, ds, dgate, dweight, dbias,
    dout_batch, dout_row, y_batch, y_row, y_route, gate_batch, gate_row, batch, L, C, eps,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, GATED: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of the sum and of the gate, (B, L, C), and a program's part of dweight and dbias.

    dweight and dbias are (programs, C).
    """
    program = tl.program_id(0)
    sum_w = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_b = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile in range(program, batch * tl.cdiv(L, ROWS), tl.num_programs(0)):
        b, p, c, inside = tile_of(tile, L, C, BLOCK, ROWS)
        s = merge(y + b * y_batch + p * y_row + c, y_route, inside, K)
        d = tl.load(dout + b * dout_batch + p * dout_row + c, mask=inside, other=0.0)
        d = d.to(tl.float32)
        n, rstd = normalise(s, inside, C, eps)
        value, w = affine(n, weight, bias, c, C, HAS_BIAS)
        to = (b * L + p) * C + c
        if GATED:
            z = tl.load(gate + b * gate_batch + p * gate_row + c, mask=inside, other=0.0)
            z = z.to(tl.float32)
            opening = tl.sigmoid(z)
            tl.store(dgate + to, d * value * opening * (1 + z * (1 - opening)), mask=inside)
            d *= z * opening
        sum_w += d * n
        sum_b += d
        dn = d * w
        along = tl.sum(dn * n, 1, keep_dims=True) / C
        dn -= tl.sum(dn, 1, keep_dims=True) / C + n * along
        tl.store(ds + to, dn * rstd, mask=inside)
    c = tl.arange(0, BLOCK)
    to = program.to(tl.int64) * C + c
    tl.store(dweight + to, tl.sum(sum_w, 0), mask=c < C)
    if HAS_BIAS:
        tl.store(dbias + to, tl.sum(sum_b, 0), mask=c < C)
