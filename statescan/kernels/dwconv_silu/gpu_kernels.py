"""Depthwise convolution in Triton: with SiLU forward, and its backward pass.

Symbols and shapes are those of reference.py. Lanes are channels. A program owns BLOCK of them and
a strip of ROWS rows of one sample, and walks it column by column: the ROWS + SIZE - 1 numbers of a
column that the taps can reach stay in registers until the window has passed, so that each is read
once a strip. STEPS columns are read together, so that they are under way together.

A window is a tuple of columns, each ROWS + SIZE - 1 vectors, in one row. Maps that are read have
any stride between samples, rows and columns; those that are written are contiguous.
"""

import triton
import triton.language as tl


@triton.jit
def strip_of(item, H, W, width, ROWS: tl.constexpr):
    """Sample, first row, first column and end of a strip `width` columns wide."""
    strips = tl.cdiv(W, width)
    groups = tl.cdiv(H, ROWS)
    j = item % strips * width
    i = item // strips % groups * ROWS
    return (item // strips // groups).to(tl.int64), i, j, tl.minimum(j + width, W)


@triton.jit
def taps(weight, c, inside, SIZE: tl.constexpr, FLIP: tl.constexpr):
    """The channels' kernels, tap by tap; with FLIP from the last to the first."""
    w = ()
    for t in tl.static_range(SIZE * SIZE):
        at = weight + c * (SIZE * SIZE)
        if FLIP:
            at += SIZE * SIZE - 1 - t
        else:
            at += t
        w = w + (tl.load(at, mask=inside, other=0.0).to(tl.float32),)
    return w


@triton.jit
def columns(at, row, column, i, j, H, W, inside, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Numbers of WIDE columns from j on, HIGH of each from row i on, zero outside the map."""
    values = ()
    for q in tl.static_range(WIDE):
        for p in tl.static_range(HIGH):
            here = inside & (i + p >= 0) & (i + p < H) & (j + q >= 0) & (j + q < W)
            where = tl.cast(i + p, tl.int64) * row + tl.cast(j + q, tl.int64) * column
            values = values + (tl.load(at + where, mask=here, other=0.0).to(tl.float32),)
    return values


@triton.jit
def last(values, COUNT: tl.constexpr, OF: tl.constexpr):
    """The last COUNT entries of a tuple of OF."""
    rest = ()
    for n in tl.static_range(OF - COUNT, OF):
        rest = rest + (values[n],)
    return rest


@triton.jit
def correlate(window, w, shift, SIZE: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """The convolution at STEPS columns of ROWS rows: column by column in one tuple."""
    sums = ()
    for q in tl.static_range(STEPS):
        for p in tl.static_range(ROWS):
            total = shift
            for t in tl.static_range(SIZE * SIZE):
                total += w[t] * window[(q + t % SIZE) * (ROWS + SIZE - 1) + p + t // SIZE]
            sums = sums + (total,)
    return sums


@triton.jit
def add_correlation(sums, ds, window, SIZE: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Gradients of the taps, to which those of some columns are added."""
    after = ()
    for t in tl.static_range(SIZE * SIZE):
        total = sums[t]
        for q in tl.static_range(STEPS):
            for p in tl.static_range(ROWS):
                number = window[(q + t % SIZE) * (ROWS + SIZE - 1) + p + t // SIZE]
                total += ds[q * ROWS + p] * number
        after = after + (total,)
    return after


@triton.jit
def keep(at, values, C, i, j, H, W, end, inside, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Store STEPS columns of ROWS rows into a contiguous map."""
    for q in tl.static_range(STEPS):
        for p in tl.static_range(ROWS):
            here = inside & (i + p < H) & (j + q < end)
            where = (tl.cast(i + p, tl.int64) * W + j + q) * C
            tl.store(at + where, values[q * ROWS + p], mask=here)


@triton.jit(do_not_specialize=["H", "W", "width"])
def forward(
    x, weight, bias, out, x_batch, x_row, x_column, H, W, C, width,
    SIZE: tl.constexpr, HAS_BIAS: tl.constexpr, ACT: tl.constexpr, FLIP: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The convolution (B, H, W, C), with ACT its SiLU, with FLIP by the kernels turned round."""
    blocks = tl.cdiv(C, BLOCK)
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    b, i, start, end = strip_of(tl.program_id(0) // blocks, H, W, width, ROWS)
    w = taps(weight, c, inside, SIZE, FLIP)
    shift = tl.zeros((BLOCK,), tl.float32)
    if HAS_BIAS:
        shift += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    HIGH: tl.constexpr = ROWS + SIZE - 1
    top = i - SIZE // 2
    left = start - SIZE // 2
    at = x + b * x_batch + c
    to = out + b * H * W * C + c
    window = columns(at, x_row, x_column, top, left, H, W, inside, HIGH, SIZE - 1)
    for j in range(start, end, STEPS):
        ahead = columns(at, x_row, x_column, top, j + SIZE // 2, H, W, inside, HIGH, STEPS)
        seen = window + ahead
        sums = correlate(seen, w, shift, SIZE, ROWS, STEPS)
        if ACT:
            values = ()
            for n in tl.static_range(STEPS * ROWS):
                values = values + (sums[n] * tl.sigmoid(sums[n]),)
            keep(to, values, C, i, j, H, W, end, inside, ROWS, STEPS)
        else:
            keep(to, sums, C, i, j, H, W, end, inside, ROWS, STEPS)
        window = last(seen, (SIZE - 1) * HIGH, (SIZE - 1 + STEPS) * HIGH)


@triton.jit(do_not_specialize=["H", "W", "width", "strips"])
def backward(
    dout, x, weight, bias, dpre, parts,
    dout_batch, dout_row, dout_column, x_batch, x_row, x_column, H, W, C, width, strips,
    SIZE: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Gradient before SiLU, (B, H, W, C), and each program's part of those of taps and bias.

    A program takes strip after strip; parts is (programs of a block, SIZE² + 1, C).
    """
    blocks = tl.cdiv(C, BLOCK)
    c = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = c < C
    slot = tl.program_id(0) // blocks
    w = taps(weight, c, inside, SIZE, False)
    shift = tl.zeros((BLOCK,), tl.float32)
    if HAS_BIAS:
        shift += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    HIGH: tl.constexpr = ROWS + SIZE - 1
    total = tl.zeros((BLOCK,), tl.float32)
    sums = ()
    for t in tl.static_range(SIZE * SIZE):
        sums = sums + (tl.zeros((BLOCK,), tl.float32),)
    for strip in range(slot, strips, tl.num_programs(0) // blocks):
        b, i, start, end = strip_of(strip, H, W, width, ROWS)
        top = i - SIZE // 2
        left = start - SIZE // 2
        at = x + b * x_batch + c
        gradient = dout + b * dout_batch + c
        to = dpre + b * H * W * C + c
        window = columns(at, x_row, x_column, top, left, H, W, inside, HIGH, SIZE - 1)
        for j in range(start, end, STEPS):
            ahead = columns(at, x_row, x_column, top, j + SIZE // 2, H, W, inside, HIGH, STEPS)
            seen = window + ahead
            dys = columns(gradient, dout_row, dout_column, i, j, H, end, inside, ROWS, STEPS)
            pre = correlate(seen, w, shift, SIZE, ROWS, STEPS)
            ds = ()
            for n in tl.static_range(STEPS * ROWS):
                opening = tl.sigmoid(pre[n])
                d = dys[n] * opening * (1 + pre[n] * (1 - opening))
                ds = ds + (d,)
                total += d
            keep(to, ds, C, i, j, H, W, end, inside, ROWS, STEPS)
            sums = add_correlation(sums, ds, seen, SIZE, ROWS, STEPS)
            window = last(seen, (SIZE - 1) * HIGH, (SIZE - 1 + STEPS) * HIGH)
    part = parts + slot.to(tl.int64) * (SIZE * SIZE + 1) * C + c
    for t in tl.static_range(SIZE * SIZE):
        tl.store(part + t * C, sums[t], mask=inside)
    tl.store(part + SIZE * SIZE * C, total, mask=inside)
