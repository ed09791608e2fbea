"""SSD in Triton by chunks, forward and backward: matrix products, routes read in place.

Symbols and shapes are those of reference.py, the sums those of chunked.py. All chunks of a route
are computed at the same time, in three steps each way: `leave` finds what each chunk leaves behind
from zero, `carry` joins the chunks in order, and the rest starts from true states. Decays within a
chunk, E, never leave registers, which hold some columns of it (STEPS) at a time; the logarithm of
a decay is the sum of the steps that it spans.

Exponentials are of base 2: with `s = softplus(z) / ln 2`, the decay is `2^(s A)` and the step size
`s ln 2`. A step at position -1 is none: s is 0, so that the state stays as it is.

Sums are float32, and so are the factors of products, on NVIDIA's GPUs each in two TF32 parts; only
those of C Bᵀ are TF32 as they are where B and C have 16 bits (PRODUCTS, FACTORS).

Arrays, beside those of reference.py: A, D and bias (K, H) in float32; states (chunks + 1, K, B, H,
N, P); totals (chunks, K, B, H), the logarithm of each chunk's decay. Results are in rows (B, L, K,
...) of positions where routes are permutations (ONCE), else in rows (B, T, K, ...) of steps. Rows
of x, dt, B, C and dy have any stride between positions and between routes.

Going back, nothing is moved out of loops (disable_licm): it would wait in registers and spill.
"""

import triton
import triton.language as tl

from ..selective_scan.gpu_kernels import LN2, LOG2E, softplus2

SIZES = ["batch", "L", "K", "H", "R", "T"]


@triton.jit
def place(slot, heads, batch, K, CHUNK: tl.constexpr):
    """Head (or group), sample, route and first step of number `((chunk K + k) B + b) heads + h`."""
    b = (slot // heads % batch).to(tl.int64)
    k = (slot // heads // batch % K).to(tl.int64)
    return slot % heads, b, k, slot // heads // batch // K * CHUNK


@triton.jit
def visits(routes, k, b, t, T, L):
    """Rows of positions of some steps of a route in a sample, negative where there is no step."""
    p = tl.load(routes + k * T + t, mask=t < T, other=-1)
    return tl.where((p >= 0) & (p < L), b * L + p, -1)


@triton.jit
def tile(at, stride, rows, c, columns):
    """Columns c of some rows, zero where there is none."""
    there = (rows >= 0)[:, None] & (c < columns)[None, :]
    return tl.load(at + rows[:, None] * stride + c[None, :], mask=there, other=0.0).to(tl.float32)


@triton.jit
def state(at, n, c, N, P):
    """A block of a state (N, P), zero outside."""
    there = (n < N)[:, None] & (c < P)[None, :]
    return tl.load(at + n[:, None] * P + c[None, :], mask=there, other=0.0)


@triton.jit
def put(at, stride, rows, there, c, columns, values):
    """Store columns c of some rows."""
    where = there[:, None] & (c < columns)[None, :]
    tl.store(at + rows[:, None] * stride + c[None, :], values, mask=where)


@triton.jit
def step_sizes(dt, stride, rows, bias):
    """Step sizes in units of ln 2 of some steps, and the derivatives of softplus there."""
    z = tl.load(dt + rows * stride, mask=rows >= 0, other=0.0).to(tl.float32) + bias
    s, slope = softplus2(z * LOG2E)
    return tl.where(rows >= 0, s, 0.0), slope


@triton.jit
def spanned(a, i, j):
    """Entry [i, j] is a_i, the logarithm of the decay of step i, where it comes after step j."""
    return tl.where(i[:, None] > j[None, :], a[:, None], 0.0)


@triton.jit
def decays(a, i, j):
    """E[i, j], the decay from step j to step i, zero where j > i."""
    spans = tl.cumsum(spanned(a, i, j), axis=0)
    return tl.where(i[:, None] >= j[None, :], tl.exp2(spans), 0.0)


@triton.jit
def decays_since(a):
    """Decays from before a chunk to each step."""
    return tl.exp2(tl.cumsum(a, axis=0))


@triton.jit
def decays_until(a, i, j):
    """Decays from each step j to the last of the chunk."""
    return tl.exp2(tl.sum(spanned(a, i, j), axis=0))


@triton.jit
def scores(
    C, C_row, at, B, B_row, at_j, N, STEPS: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """Columns of C Bᵀ, (CHUNK, STEPS)."""
    S = tl.zeros((CHUNK, STEPS), tl.float32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        B_n = tl.trans(tile(B, B_row, at_j, n, N))
        S = tl.dot(tile(C, C_row, at, n, N), B_n, S, input_precision=FACTORS)
    return S


@triton.jit(do_not_specialize=SIZES)
def leave(
    values, dt, A, matrix, bias, routes, states, totals,
    values_row, values_route, dt_row, dt_route, matrix_row, matrix_route,
    batch, L, K, H, R, T, N, P,
    BACK: tl.constexpr, PRODUCTS: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """What each chunk does to a state that is zero, and the logarithm of its decay.

    It leaves the sum of `until delta B ⊗ x` at its end, stored after it; or, BACK, hands the sum
    of `since C ⊗ dy` back to its start, stored before it. values are x or dy, matrix is B or C.
    """
    item = tl.program_id(0)
    c = item % tl.cdiv(P, BLOCK_P) * BLOCK_P + tl.arange(0, BLOCK_P)
    item = item // tl.cdiv(P, BLOCK_P)
    n = item % tl.cdiv(N, BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    slot = item // tl.cdiv(N, BLOCK_N)  # ((chunk · K + k) · batch + b) · H + h
    h, b, k, start = place(slot, H, batch, K, CHUNK)
    i = tl.arange(0, CHUNK)
    at = visits(routes, k, b, start + i, T, L)
    s = step_sizes(dt + k * dt_route + h, dt_row, at, tl.load(bias + k * H + h))[0]
    a = s * tl.load(A + k * H + h)
    weight = decays_since(a) if BACK else decays_until(a, i, i) * s * LN2
    v = weight[:, None] * tile(values + k * values_route + h * P, values_row, at, c, P)
    M = tile(matrix + k * matrix_route + h // R * N, matrix_row, at, n, N)
    left = tl.dot(tl.trans(M), v, input_precision=PRODUCTS)
    size = tl.cast(K, tl.int64) * batch * H * N * P  # of one chunk's states
    to = states + slot.to(tl.int64) * N * P + (0 if BACK else size)
    put(to, P, n, n < N, c, P, left)
    tl.store(totals + slot, tl.sum(a, axis=0))


@triton.jit(do_not_specialize=["heads", "chunks", "first", "direction"])
def carry(states, totals, heads, size, chunks, first, direction, BLOCK: tl.constexpr):
    """Turn what each chunk leaves behind from zero into what it leaves behind in truth.

    states (chunks + 1, heads, size) start with zero at `first` and go on in a direction, 1 or -1.
    """
    item = tl.program_id(0)
    head = item // tl.cdiv(size, BLOCK)
    c = item % tl.cdiv(size, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    inside = c < size
    at = states + tl.cast(head, tl.int64) * size + c
    step = tl.cast(heads, tl.int64) * size
    h = tl.zeros((BLOCK,), tl.float32)
    tl.store(at + first * step, h, mask=inside)
    for i in range(chunks):
        before = first + i * direction
        chunk = tl.minimum(before, before + direction)
        total = tl.load(totals + tl.cast(chunk, tl.int64) * heads + head)
        to = at + (before + direction) * step
        h = tl.exp2(total) * h + tl.load(to, mask=inside, other=0.0)
        tl.store(to, h, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def forward(
    x, dt, A, B, C, D, bias, routes, states, y,
    x_row, x_route, dt_row, dt_route, B_row, B_route, C_row, C_route,
    batch, L, K, H, R, T, N, P,
    ONCE: tl.constexpr, PRODUCTS: tl.constexpr, FACTORS: tl.constexpr,
    CHUNK: tl.constexpr, STEPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Outputs of each chunk, (C Bᵀ ∘ E) (delta x) + since C h + D x."""
    item = tl.program_id(0)
    c = item % tl.cdiv(P, BLOCK_P) * BLOCK_P + tl.arange(0, BLOCK_P)
    slot = item // tl.cdiv(P, BLOCK_P)
    h, b, k, start = place(slot, H, batch, K, CHUNK)
    i = tl.arange(0, CHUNK)
    at = visits(routes, k, b, start + i, T, L)
    dt_h = dt + k * dt_route + h
    shift = tl.load(bias + k * H + h)
    s = step_sizes(dt_h, dt_row, at, shift)[0]
    a = s * tl.load(A + k * H + h)
    x_h = x + k * x_route + h * P
    B_h = B + k * B_route + h // R * N
    C_h = C + k * C_route + h // R * N
    before = states + slot.to(tl.int64) * N * P
    out = tl.zeros((CHUNK, BLOCK_P), tl.float32)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        C_n = tile(C_h, C_row, at, n, N)
        out = tl.dot(C_n, state(before, n, c, N, P), out, input_precision=PRODUCTS)
    out = out * decays_since(a)[:, None]
    out += tl.load(D + k * H + h) * tile(x_h, x_row, at, c, P)
    for first in range(0, CHUNK, STEPS):
        j = first + tl.arange(0, STEPS)
        at_j = visits(routes, k, b, start + j, T, L)
        s_j = step_sizes(dt_h, dt_row, at_j, shift)[0]
        u = (s_j * LN2)[:, None] * tile(x_h, x_row, at_j, c, P)
        S = scores(C_h, C_row, at, B_h, B_row, at_j, N, STEPS, BLOCK_N, CHUNK, FACTORS)
        out = tl.dot(S * decays(a, i, j), u, out, input_precision=PRODUCTS)
    put(y + (k * H + h) * P, K * H * P, at if ONCE else b * T + start + i, at >= 0, c, P, out)


@triton.jit
def spread(values, i, j):
    """Values of steps j at their places among the steps i, zero elsewhere."""
    return tl.sum(tl.where(i[:, None] == j[None, :], values[None, :], 0.0), axis=1)


@triton.jit
def log_gradients(spans, last, i, j):
    """Gradient of each step's log decay, from those of the sums of log decays.

    Step i is in the sum of the steps after j up to t, spans[t, j], where j < i <= t; and in that
    of all steps after j, last[j], where j < i.
    """
    to_the_end = tl.cumsum(spans, axis=0, reverse=True) + last[None, :]
    return tl.sum(tl.where(i[:, None] > j[None, :], to_the_end, 0.0), axis=1)


@triton.jit(do_not_specialize=SIZES)
def backward(
    x, dt, A, B, C, D, bias, routes, dy, states, handed, dx, dz, dA, dD, dbias,
    x_row, x_route, dt_row, dt_route, B_row, B_route, C_row, C_route, dy_row, dy_route,
    batch, L, K, H, R, T, N, P,
    ONCE: tl.constexpr, PRODUCTS: tl.constexpr, FACTORS: tl.constexpr,
    CHUNK: tl.constexpr, STEPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Gradients of x and dt, and each chunk's share (chunks, K, B, H) of those of A, D and bias.

    handed holds the gradients of the states.
    """
    slot = tl.program_id(0)
    h, b, k, start = place(slot, H, batch, K, CHUNK)
    i = tl.arange(0, CHUNK)
    at = visits(routes, k, b, start + i, T, L)
    row = at if ONCE else b * T + start + i
    dt_h = dt + k * dt_route + h
    shift = tl.load(bias + k * H + h)
    rate = tl.load(A + k * H + h)
    s, slope = step_sizes(dt_h, dt_row, at, shift)
    a = s * rate
    skip = tl.load(D + k * H + h)
    x_h = x + k * x_route + h * P
    dy_h = dy + k * dy_route + h * P
    B_h = B + k * B_route + h // R * N
    C_h = C + k * C_route + h // R * N
    before = states + slot.to(tl.int64) * N * P
    later = handed + (slot.to(tl.int64) + tl.cast(K, tl.int64) * batch * H) * N * P

    dsince = tl.zeros((CHUNK,), tl.float32)
    dtotal = 0.0
    dD_h = 0.0
    for first in tl.range(0, P, BLOCK_P, disable_licm=True):
        c = first + tl.arange(0, BLOCK_P)
        dy_c = tile(dy_h, dy_row, at, c, P)
        dD_h += tl.sum(dy_c * tile(x_h, x_row, at, c, P))
        for first_n in tl.range(0, N, BLOCK_N, disable_licm=True):
            n = first_n + tl.arange(0, BLOCK_N)
            h_n = state(before, n, c, N, P)
            dtotal += tl.sum(h_n * state(later, n, c, N, P))
            read = tl.dot(tile(C_h, C_row, at, n, N), h_n, input_precision=PRODUCTS)
            dsince += tl.sum(dy_c * read, axis=1)
    da = tl.cumsum(dsince * decays_since(a), axis=0, reverse=True)
    da += dtotal * tl.exp2(tl.sum(a, axis=0))

    ddelta = tl.zeros((CHUNK,), tl.float32)
    for first in tl.range(0, CHUNK, STEPS, disable_licm=True):
        j = first + tl.arange(0, STEPS)
        at_j = visits(routes, k, b, start + j, T, L)
        row_j = at_j if ONCE else b * T + start + j
        s_j = step_sizes(dt_h, dt_row, at_j, shift)[0]
        delta = s_j * LN2
        until = decays_until(a, i, j)
        S = scores(C_h, C_row, at, B_h, B_row, at_j, N, STEPS, BLOCK_N, CHUNK, FACTORS)
        S = S * decays(a, i, j)
        spans = tl.zeros((CHUNK, STEPS), tl.float32)
        last = tl.zeros((STEPS,), tl.float32)
        du_x = tl.zeros((STEPS,), tl.float32)
        for first_c in tl.range(0, P, BLOCK_P, disable_licm=True):
            c = first_c + tl.arange(0, BLOCK_P)
            du = tl.zeros((STEPS, BLOCK_P), tl.float32)
            for first_n in tl.range(0, N, BLOCK_N, disable_licm=True):
                n = first_n + tl.arange(0, BLOCK_N)
                B_n = tile(B_h, B_row, at_j, n, N)
                du = tl.dot(B_n, state(later, n, c, N, P), du, input_precision=PRODUCTS)
            du = du * until[:, None]
            x_c = tile(x_h, x_row, at_j, c, P)
            last += tl.sum(du * x_c, axis=1) * delta
            dy_c = tile(dy_h, dy_row, at, c, P)
            u = tl.trans(delta[:, None] * x_c)
            spans = tl.dot(dy_c, u, spans, input_precision=PRODUCTS)
            du = tl.dot(tl.trans(S), dy_c, du, input_precision=PRODUCTS)
            du_x += tl.sum(du * x_c, axis=1)
            dx_c = delta[:, None] * du + skip * tile(dy_h, dy_row, at_j, c, P)
            put(dx + (k * H + h) * P, K * H * P, row_j, at_j >= 0, c, P, dx_c)
        da += log_gradients(spans * S, last, i, j)
        ddelta += spread(du_x, i, j)

    dz_h = tl.where(at >= 0, (ddelta + da * rate) * slope, 0.0)
    tl.store(dz + (row * K + k) * H + h, dz_h, mask=at >= 0)
    tl.store(dA + slot, tl.sum(da * s, axis=0) * LN2)
    tl.store(dD + slot, dD_h)
    tl.store(dbias + slot, tl.sum(dz_h, axis=0))


@triton.jit(do_not_specialize=[*SIZES, "parts"])
def backward_shared(
    x, dt, A, B, C, bias, routes, dy, states, handed, dB, dC,
    x_row, x_route, dt_row, dt_route, B_row, B_route, C_row, C_route, dy_row, dy_route,
    batch, L, K, H, R, T, N, P, parts,
    ONCE: tl.constexpr, PRODUCTS: tl.constexpr,
    CHUNK: tl.constexpr, STEPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Gradients of B and C, (parts, B, rows, K, G, N): sums over the heads of a group, in parts."""
    item = tl.program_id(0)
    n = item % tl.cdiv(N, BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    item = item // tl.cdiv(N, BLOCK_N)
    part = item % parts
    item = item // parts  # ((chunk · K + k) · batch + b) · G + g
    G = H // R
    g, b, k, start = place(item, G, batch, K, CHUNK)
    heads = tl.cdiv(R, parts)
    first_head = g * R + part * heads
    after_head = tl.minimum(first_head + heads, (g + 1) * R)
    i = tl.arange(0, CHUNK)
    at = visits(routes, k, b, start + i, T, L)
    to = (part * batch + b) * (L if ONCE else T)  # the first row of the sample
    x_k = x + k * x_route
    dy_k = dy + k * dy_route
    dt_k = dt + k * dt_route
    B_g = B + k * B_route + g * N
    C_g = C + k * C_route + g * N
    first_state = (item // G).to(tl.int64) * H * N * P
    before = states + first_state
    later = handed + first_state + tl.cast(K, tl.int64) * batch * H * N * P

    dC_n = tl.zeros((CHUNK, BLOCK_N), tl.float32)
    for h in tl.range(first_head, after_head, disable_licm=True):
        s = step_sizes(dt_k + h, dt_row, at, tl.load(bias + k * H + h))[0]
        since = decays_since(s * tl.load(A + k * H + h))
        for first in tl.range(0, P, BLOCK_P, disable_licm=True):
            c = first + tl.arange(0, BLOCK_P)
            dy_c = since[:, None] * tile(dy_k + h * P, dy_row, at, c, P)
            h_n = tl.trans(state(before + h * N * P, n, c, N, P))
            dC_n = tl.dot(dy_c, h_n, dC_n, input_precision=PRODUCTS)
    for first_j in tl.range(0, CHUNK, STEPS, disable_licm=True):
        j = first_j + tl.arange(0, STEPS)
        at_j = visits(routes, k, b, start + j, T, L)
        dB_n = tl.zeros((STEPS, BLOCK_N), tl.float32)
        dS = tl.zeros((CHUNK, STEPS), tl.float32)
        for h in tl.range(first_head, after_head, disable_licm=True):
            shift = tl.load(bias + k * H + h)
            s = step_sizes(dt_k + h, dt_row, at, shift)[0]
            s_j = step_sizes(dt_k + h, dt_row, at_j, shift)[0]
            a = s * tl.load(A + k * H + h)
            until = decays_until(a, i, j)
            spans = tl.zeros((CHUNK, STEPS), tl.float32)
            for first in tl.range(0, P, BLOCK_P, disable_licm=True):
                c = first + tl.arange(0, BLOCK_P)
                u = (s_j * LN2)[:, None] * tile(x_k + h * P, x_row, at_j, c, P)
                dy_c = tile(dy_k + h * P, dy_row, at, c, P)
                spans = tl.dot(dy_c, tl.trans(u), spans, input_precision=PRODUCTS)
                dh_n = tl.trans(state(later + h * N * P, n, c, N, P))
                dB_n = tl.dot(until[:, None] * u, dh_n, dB_n, input_precision=PRODUCTS)
            dS += spans * decays(a, i, j)
        C_n = tile(C_g, C_row, at, n, N)
        dB_n = tl.dot(tl.trans(dS), C_n, dB_n, input_precision=PRODUCTS)
        rows_j = to + (at_j - b * L if ONCE else start + j)
        put(dB + (k * G + g) * N, K * G * N, rows_j, at_j >= 0, n, N, dB_n)
        dC_n = tl.dot(dS, tile(B_g, B_row, at_j, n, N), dC_n, input_precision=PRODUCTS)
    rows = to + (at - b * L if ONCE else start + i)
    put(dC + (k * G + g) * N, K * G * N, rows, at >= 0, n, N, dC_n)
