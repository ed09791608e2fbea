"""The selective scan in Triton: forward and backward, routes read in place.

Symbols and shapes are those of reference.py. A program owns a block of channels of one sample, one
route (or all of them in turn) and one segment of its steps, and walks it step by step: states stay
in registers, lanes are channels, and no step exchanges anything between lanes. Only the gradients
of B and C are sums over channels.

Steps are read `STEPS` at a time, so that their rows are under way together, and states are saved
every `CHUNK` steps. Where a segment is not the whole route, a first pass with `LOCAL` finds what
the segment does to a state, `carry` joins the segments, and the second pass starts each from there.

Exponentials are of base 2: with `s = softplus(z) / ln 2`, the decay is `2^(s A)` and the step size
`s ln 2`. A step at position -1 is none: s is 0, so that the state stays as it is.

Arrays, beside those of reference.py, in float32: A (K, N, C), weight (K, R, C), D and bias (K, C);
saved (chunks + 1, K, B, N, C); totals (segments, K, B, C); rows of x, dt, B, C, y and their
gradients have any stride between positions and between routes.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
SIZES = ["L", "T", "chunks", "segment_chunks", "segments", "batch", "K", "R"]


@triton.jit
def softplus2(z):
    """softplus(z ln 2) / ln 2 and its derivative in z: `log2(1 + u) = u P(u)` to 3e-7."""
    u = tl.exp2(-tl.abs(z))
    p = u * -0.0123193562 + 0.0636074543
    p = p * u - 0.155351222
    p = p * u + 0.256009221
    p = p * u - 0.353394628
    p = p * u + 0.480063647
    p = p * u - 0.721310079
    p = p * u + 1.44269478
    q = 1.0 / (1.0 + u)
    return tl.maximum(z, 0.0) + u * p, tl.where(z > 0, q, u * q)


@triton.jit
def positions(route, first, stop, L, STEPS: tl.constexpr):
    """Positions of some steps, negative where there is none."""
    ps = ()
    for i in tl.static_range(STEPS):
        p = tl.load(route + first + i, mask=first + i < stop, other=-1)
        ps = ps + (tl.where(p < L, p, -1),)
    return ps


@triton.jit
def rows(at, stride, base, ps, inside, STEPS: tl.constexpr):
    """The block's channels at some positions, zero where there is no step."""
    values = ()
    for i in tl.static_range(STEPS):
        row = tl.load(at + (base + ps[i]) * stride, mask=inside & (ps[i] >= 0), other=0.0)
        values = values + (row.to(tl.float32),)
    return values


@triton.jit
def number(at, stride, base, p):
    """One number of a position, zero where there is no step."""
    return tl.load(at + (base + p) * stride, mask=p >= 0, other=0.0).to(tl.float32)


@triton.jit
def states(at, stride, where, N: tl.constexpr):
    """A row for each of N states."""
    h = ()
    for n in tl.static_range(N):
        h = h + (tl.load(at + n * stride, mask=where, other=0.0),)
    return h


@triton.jit
def keep(at, stride, where, h, N: tl.constexpr):
    """Store a row for each of N states."""
    for n in tl.static_range(N):
        tl.store(at + n * stride, h[n], mask=where)


@triton.jit
def step_sizes(
    dt,
    dt_row,
    weight,
    channels,
    R,
    bias,
    base,
    ps,
    inside,
    LOW_RANK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Step sizes in units of ln 2 of some steps, and the derivatives of softplus there."""
    if LOW_RANK:
        z = ()
        for i in tl.static_range(STEPS):
            z = z + (tl.zeros_like(bias),)
        for r in range(R):
            w = tl.load(weight + r * channels, mask=inside, other=0.0)
            sums = ()
            for i in tl.static_range(STEPS):
                sums = sums + (z[i] + number(dt + r, dt_row, base, ps[i]) * w,)
            z = sums
    else:
        z = rows(dt, dt_row, base, ps, inside, STEPS)
    sizes = ()
    slopes = ()
    for i in tl.static_range(STEPS):
        s, slope = softplus2((z[i] + bias) * LOG2E)
        sizes = sizes + (tl.where(ps[i] >= 0, s, 0.0),)
        slopes = slopes + (slope,)
    return sizes, slopes


@triton.jit
def decays(s, A, N: tl.constexpr):
    """2^(s A) for each state."""
    a = ()
    for n in tl.static_range(N):
        a = a + (tl.exp2(s * A[n]),)
    return a


@triton.jit
def enter(h, a, u, B, B_row, base, p, N: tl.constexpr):
    """The states after a step that u = delta x enters."""
    after = ()
    for n in tl.static_range(N):
        after = after + (a[n] * h[n] + u * number(B + n, B_row, base, p),)
    return after


@triton.jit
def put(at, value, where, ONCE: tl.constexpr):
    """Store a value, or add it where positions may come again or were visited by another route."""
    if not ONCE:
        value += tl.load(at, mask=where, other=0.0).to(tl.float32)
    tl.store(at, value, mask=where)


@triton.jit(do_not_specialize=SIZES)
def forward(
    x, dt, A, B, C, D, weight, bias, routes, y, saved, totals,
    x_row, x_route, dt_row, dt_route, B_row, B_route, C_row, C_route, y_row, y_route,
    batch, L, channels, K, R, T, chunks, segments, segment_chunks,
    N: tl.constexpr, LOW_RANK: tl.constexpr, IN_TURN: tl.constexpr, ONCE: tl.constexpr,
    LOCAL: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Outputs and saved states; with LOCAL, each segment's last state from zero and total of s."""
    item = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCK)
    c = item % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    item = item // blocks
    first_route = 0
    after_route = K
    if not IN_TURN:
        first_route = item % K
        after_route = first_route + 1
        item = item // K
    segment = item % segments
    b = (item // segments).to(tl.int64)
    first_chunk = segment * segment_chunks
    after_chunk = tl.minimum(first_chunk + segment_chunks, chunks)
    base = b * L
    for k in range(first_route, after_route):
        rates = states(A + k * N * channels + c, channels, inside, N)
        skip = tl.load(D + k * channels + c, mask=inside, other=0.0)
        shift = tl.load(bias + k * channels + c, mask=inside, other=0.0)
        route = routes + k * T
        x_k = x + k * x_route + c
        B_k = B + k * B_route
        C_k = C + k * C_route
        expand = weight + k * R * channels + c
        dt_k = dt + k * dt_route
        if not LOW_RANK:
            dt_k += c
        slot = (k * batch + b) * N * channels + c  # of the states, within one chunk's
        size = tl.cast(K, tl.int64) * batch * N * channels  # of one chunk's
        begun = inside & (segment > 0) & (not LOCAL)
        h = states(saved + first_chunk * size + slot, channels, begun, N)
        total = tl.zeros_like(shift)
        for chunk in range(first_chunk, after_chunk):
            if not LOCAL:  # a segment's first state is there already, and others read it
                new = inside & ((chunk > first_chunk) | (segment == 0))
                keep(saved + chunk * size + slot, channels, new, h, N)
            stop = tl.minimum((chunk + 1) * CHUNK, T)
            for t in range(chunk * CHUNK, stop, STEPS):
                ps = positions(route, t, stop, L, STEPS)
                us = rows(x_k, x_row, base, ps, inside, STEPS)
                sizes, _ = step_sizes(
                    dt_k, dt_row, expand, channels, R, shift, base, ps, inside, LOW_RANK, STEPS
                )
                for i in tl.static_range(STEPS):
                    a = decays(sizes[i], rates, N)
                    h = enter(h, a, sizes[i] * LN2 * us[i], B_k, B_row, base, ps[i], N)
                    if LOCAL:
                        total += sizes[i]
                    else:
                        out = skip * us[i]
                        for n in tl.static_range(N):
                            out += h[n] * number(C_k + n, C_row, base, ps[i])
                        at = y + (base + ps[i]) * y_row + k * y_route + c
                        put(at, out, inside & (ps[i] >= 0), ONCE)
        if LOCAL:
            tl.store(totals + ((segment * K + k) * batch + b) * channels + c, total, mask=inside)
        last = inside & (LOCAL | (segment == segments - 1))
        keep(saved + after_chunk * size + slot, channels, last, h, N)


@triton.jit(do_not_specialize=SIZES)
def carry(
    local, totals, A, batch, channels, K, segments, local_step, first, direction,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Join segments: turn what each leaves behind from zero into what it leaves behind in truth.

    Segment number i, counted from `first` in a direction (1 or -1), left `local` at i · local_step.
    """
    item = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCK)
    c = item % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    row = (item // blocks).to(tl.int64)  # k · batch + b
    rates = states(A + row // batch * N * channels + c, channels, inside, N)
    h = ()
    for n in tl.static_range(N):
        h = h + (tl.zeros_like(rates[0]),)
    for i in range(segments):
        segment = tl.cast(first + i * direction, tl.int64)
        total = tl.load(totals + (segment * K * batch + row) * channels + c, mask=inside, other=0.0)
        at = local + segment * local_step + row * N * channels + c
        left = states(at, channels, inside, N)
        joined = ()
        for n in tl.static_range(N):
            joined = joined + (tl.exp2(total * rates[n]) * h[n] + left[n],)
        h = joined
        keep(at, channels, inside, h, N)


@triton.jit
def retrace(
    h, rates, us, sizes, B, B_row, base, ps, N: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    """States after some steps, with every decay and every state before a step on the way."""
    a = ()
    before = ()
    for i in tl.static_range(STEPS):
        decay = decays(sizes[i], rates, N)
        a = a + (decay,)
        before = before + (h,)
        h = enter(h, decay, sizes[i] * LN2 * us[i], B, B_row, base, ps[i], N)
    return a, before, h


@triton.jit
def hand_back(w, a, dy, C, C_row, base, p, N: tl.constexpr):
    """Gradients of the states after a step, and what it hands back to the states before."""
    g = ()
    back = ()
    for n in tl.static_range(N):
        gn = w[n] + dy * number(C + n, C_row, base, p)
        g = g + (gn,)
        back = back + (gn * a[n],)
    return g, back


@triton.jit(do_not_specialize=SIZES)
def backward(
    x, dt, A, B, C, D, weight, bias, routes, dy, saved, handed, totals, scratch,
    dx, dz, dA, dB, dC, dD, dbias,
    x_row, x_route, dt_row, dt_route, B_row, B_route, C_row, C_route, dy_row, dy_route,
    dx_row, dx_route,
    batch, L, channels, K, R, T, chunks, segments, segment_chunks,
    N: tl.constexpr, LOW_RANK: tl.constexpr, IN_TURN: tl.constexpr, ONCE: tl.constexpr,
    LOCAL: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Gradients; with LOCAL, what each segment but the first hands back from zero.

    dz (B, L, K, C) is the gradient before softplus. Sums over steps go to a slot a program: dA
    (B · segments, K, N, C), dD and dbias (B · segments, K, C); sums over channels to one a block:
    dB and dC (blocks, B, L, K, N). scratch (programs, CHUNK / STEPS, N, BLOCK) is each program's.
    """
    program = tl.program_id(0).to(tl.int64)
    item = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCK)
    block = item % blocks
    lane = tl.arange(0, BLOCK)
    c = block * BLOCK + lane
    inside = c < channels
    item = item // blocks
    first_route = 0
    after_route = K
    if not IN_TURN:
        first_route = item % K
        after_route = first_route + 1
        item = item // K
    segment = item % segments
    b = (item // segments).to(tl.int64)
    first_chunk = segment * segment_chunks
    after_chunk = tl.minimum(first_chunk + segment_chunks, chunks)
    base = b * L
    parts = scratch + program * (CHUNK // STEPS * N * BLOCK) + lane
    for k in range(first_route, after_route):
        rates = states(A + k * N * channels + c, channels, inside, N)
        skip = tl.load(D + k * channels + c, mask=inside, other=0.0)
        shift = tl.load(bias + k * channels + c, mask=inside, other=0.0)
        route = routes + k * T
        x_k = x + k * x_route + c
        B_k = B + k * B_route
        C_k = C + k * C_route
        expand = weight + k * R * channels + c
        dt_k = dt + k * dt_route
        if not LOW_RANK:
            dt_k += c
        slot = (k * batch + b) * N * channels + c
        size = tl.cast(K, tl.int64) * batch * N * channels
        handed_on = inside & (segment < segments - 1) & (not LOCAL)
        w = states(handed + (segment + 1) * size + slot, channels, handed_on, N)
        total = tl.zeros_like(shift)
        sum_D = tl.zeros_like(shift)
        sum_bias = tl.zeros_like(shift)
        sum_A = ()
        for n in tl.static_range(N):
            sum_A = sum_A + (tl.zeros_like(shift),)
        for j in range(after_chunk - first_chunk):
            chunk = after_chunk - 1 - j
            start = chunk * CHUNK
            stop = tl.minimum(start + CHUNK, T)
            parts_here = tl.cdiv(stop - start, STEPS)
            if not LOCAL:
                h = states(saved + chunk * size + slot, channels, inside, N)
                keep(parts, BLOCK, inside, h, N)
                for part in range(1, parts_here):
                    t = start + (part - 1) * STEPS
                    ps = positions(route, t, stop, L, STEPS)
                    us = rows(x_k, x_row, base, ps, inside, STEPS)
                    sizes, _ = step_sizes(
                        dt_k, dt_row, expand, channels, R, shift, base, ps, inside, LOW_RANK, STEPS
                    )
                    for i in tl.static_range(STEPS):
                        a = decays(sizes[i], rates, N)
                        h = enter(h, a, sizes[i] * LN2 * us[i], B_k, B_row, base, ps[i], N)
                    keep(parts + part * N * BLOCK, BLOCK, inside, h, N)
            for back in range(parts_here):
                part = parts_here - 1 - back
                ps = positions(route, start + part * STEPS, stop, L, STEPS)
                sizes, slopes = step_sizes(
                    dt_k, dt_row, expand, channels, R, shift, base, ps, inside, LOW_RANK, STEPS
                )
                dys = rows(dy + k * dy_route + c, dy_row, base, ps, inside, STEPS)
                if LOCAL:
                    for i in tl.static_range(STEPS - 1, -1, -1):
                        a = decays(sizes[i], rates, N)
                        _, w = hand_back(w, a, dys[i], C_k, C_row, base, ps[i], N)
                        total += sizes[i]
                else:
                    us = rows(x_k, x_row, base, ps, inside, STEPS)
                    first = states(parts + part * N * BLOCK, BLOCK, inside, N)
                    decay, before, after = retrace(
                        first, rates, us, sizes, B_k, B_row, base, ps, N, STEPS
                    )
                    for i in tl.static_range(STEPS - 1, -1, -1):
                        p = ps[i]
                        step = inside & (p >= 0)
                        delta = sizes[i] * LN2
                        g, w = hand_back(w, decay[i], dys[i], C_k, C_row, base, p, N)
                        gB = tl.zeros_like(shift)
                        ddelta = tl.zeros_like(shift)
                        sums = ()
                        numbers = ((block * batch + b) * L + p) * K * N + k * N
                        for n in tl.static_range(N):
                            decayed = w[n] * before[i][n]
                            sums = sums + (sum_A[n] + decayed * delta,)
                            ddelta += decayed * rates[n]
                            gB += g[n] * number(B_k + n, B_row, base, p)
                            put(dB + numbers + n, tl.sum(g[n] * delta * us[i]), p >= 0, ONCE)
                            put(dC + numbers + n, tl.sum(dys[i] * after[n]), p >= 0, ONCE)
                        after = before[i]
                        sum_A = sums
                        dz_i = (ddelta + gB * us[i]) * slopes[i]
                        sum_bias += tl.where(step, dz_i, 0.0)
                        sum_D += dys[i] * us[i]
                        put(dz + ((base + p) * K + k) * channels + c, dz_i, step, ONCE)
                        dx_i = gB * delta + skip * dys[i]
                        put(dx + (base + p) * dx_row + k * dx_route + c, dx_i, step, ONCE)
        if LOCAL:
            tl.store(totals + ((segment * K + k) * batch + b) * channels + c, total, mask=inside)
            keep(handed + segment * size + slot, channels, inside, w, N)
        else:
            sums_at = ((b * segments + segment) * K + k) * channels + c
            tl.store(dD + sums_at, sum_D, mask=inside)
            tl.store(dbias + sums_at, sum_bias, mask=inside)
            keep(
                dA + ((b * segments + segment) * K + k) * N * channels + c,
                channels,
                inside,
                sum_A,
                N,
            )
