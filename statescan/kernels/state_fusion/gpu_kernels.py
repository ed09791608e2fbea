"""Weighted sums of shifted maps in Triton, the border replicated: forward and both gradients.

Maps x, out, dout and dx are (B, H, W, C), weight is (T, C) and dweight (slots, T, C), both float32;
dy and dx hold the T offsets of the taps. Lanes are channels and positions; no program writes where
another does.

The gradient of x at a position gathers from every position that read it. Inside the map that is
one a tap, and `tap_sum` does it with the offsets turned round. The border was also read for what
lies beyond it: `border` gathers there, from all rows (or columns) that a tap takes to the border.
"""

import triton
import triton.language as tl

SIZES = ["batch", "H", "W", "T", "tiles_down", "tiles_across", "share"]


@triton.jit
def lanes(item, C, BLOCK: tl.constexpr):
    """The channels of a program, and which of them there are."""
    c = item % tl.cdiv(C, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    return c[None, :], (c < C)[None, :]


@triton.jit
def offset(offsets, t, T):
    """One offset of a tap, 0 where there is no such tap."""
    return tl.load(offsets + t, mask=t < T, other=0).to(tl.int32)


@triton.jit
def clamp(i, size):
    """The nearest index inside."""
    return tl.minimum(tl.maximum(i, 0), size - 1)


@triton.jit
def at(b, i, j, H, W, C):
    """Where the channels of a position start."""
    return ((b * H + i) * W + j) * C


@triton.jit(do_not_specialize=SIZES)
def tap_sum(
    x, weight, dy, dx, out, H, W, C, T, tiles_down, tiles_across,
    BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    """Sums of one tile; with BACK, gradients at positions that are not at the border."""
    item = tl.program_id(0)
    c, channel = lanes(item, C, BLOCK)
    tile = item // tl.cdiv(C, BLOCK)
    p = tl.arange(0, ROWS * COLUMNS)[:, None]
    i = tile // tiles_across % tiles_down * ROWS + p // COLUMNS
    j = tile % tiles_across * COLUMNS + p % COLUMNS
    b = (tile // (tiles_across * tiles_down)).to(tl.int64)
    here = (i < H) & (j < W)
    if BACK:
        here = here & (i > 0) & (i < H - 1) & (j > 0) & (j < W - 1)
    total = tl.zeros((ROWS * COLUMNS, BLOCK), tl.float32)
    for first in range(0, T, TOGETHER):
        for n in tl.static_range(TOGETHER):
            t = first + n
            w = tl.load(weight + t * C + c, mask=channel & (t < T), other=0.0)
            down = offset(dy, t, T)
            right = offset(dx, t, T)
            seen = here & (t < T)
            if BACK:
                y = i - down
                z = j - right
                seen = seen & (y >= 0) & (y < H) & (z >= 0) & (z < W)
            else:
                y = clamp(i + down, H)
                z = clamp(j + right, W)
            value = tl.load(x + at(b, y, z, H, W, C) + c, mask=seen & channel, other=0.0)
            total += w * value.to(tl.float32)
    tl.store(out + at(b, i, j, H, W, C) + c, total, mask=here & channel)


@triton.jit
def span(kind, size):
    """First index and number of indices of a kind: 0 the first one, 1 the last, 2 those between."""
    first = tl.where(kind == 0, 0, tl.where(kind == 1, size - 1, 1))
    return first, tl.where(
        kind == 0, 1, tl.where(kind == 1, (size > 1).to(tl.int32), tl.maximum(size - 2, 0))
    )


@triton.jit
def readers(i, kind, d, size):
    """First index, and number of indices, that a tap of offset d takes to an index of a kind."""
    count = tl.minimum(tl.maximum(1 + tl.where(kind == 0, -d, d), 0), size)
    count = tl.where((kind == 2) | (size == 1), 1, count)
    return tl.where(kind == 2, i - d, tl.where(kind == 0, 0, size - count)), count


@triton.jit(do_not_specialize=SIZES)
def border(
    dout, weight, dy, dx, out, batch, H, W, C, T,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Gradients of x at some positions of one edge or corner, of as many samples as they span.

    A program's second number is that of its part of the border: three times the kind of its rows
    and the kind of its columns.
    """
    item = tl.program_id(0)
    c, channel = lanes(item, C, BLOCK)
    tile = (item // tl.cdiv(C, BLOCK)).to(tl.int64)
    vertical = tl.program_id(1) // 3
    horizontal = tl.program_id(1) % 3
    top, height = span(vertical, H)
    left, width = span(horizontal, W)
    cells = tl.maximum(height * width, 1)
    start = (tile * POSITIONS) % cells
    p = start.to(tl.int32) + tl.arange(0, POSITIONS)[:, None]
    b = tile * POSITIONS // cells + p // cells
    here = (b < batch) & (height * width > 0)
    across = tl.maximum(width, 1)
    i = top + p % cells // across
    j = left + p % cells % across
    total = tl.zeros((POSITIONS, BLOCK), tl.float32)
    if (tile * POSITIONS < tl.cast(batch, tl.int64) * cells) & (height * width > 0):
        for t in range(T):
            w = tl.load(weight + t * C + c, mask=channel, other=0.0)
            first_i, rows = readers(i, vertical, offset(dy, t, T), H)
            first_j, columns = readers(j, horizontal, offset(dx, t, T), W)
            for first in range(0, rows * columns, TOGETHER):
                for n in tl.static_range(TOGETHER):
                    k = first + n
                    y = first_i + k // columns
                    z = first_j + k % columns
                    seen = here & (k < rows * columns)
                    seen = seen & (y >= 0) & (y < H) & (z >= 0) & (z < W)
                    where = dout + at(b, y, z, H, W, C) + c
                    value = tl.load(where, mask=seen & channel, other=0.0)
                    total += w * value.to(tl.float32)
        tl.store(out + at(b, i, j, H, W, C) + c, total, mask=here & channel)


@triton.jit(do_not_specialize=SIZES)
def tap_dweight(
    dout, x, dy, dx, dweight, batch, H, W, C, T, share,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Gradients of the weight of TOGETHER taps, summed over a program's share of the tiles."""
    item = tl.program_id(0)
    c, channel = lanes(item, C, BLOCK)
    groups = tl.cdiv(T, TOGETHER)
    first = item // tl.cdiv(C, BLOCK) % groups * TOGETHER
    slot = (item // (tl.cdiv(C, BLOCK) * groups)).to(tl.int64)
    sums = ()
    for n in tl.static_range(TOGETHER):
        sums = sums + (tl.zeros((POSITIONS, BLOCK), tl.float32),)
    tiles = tl.cdiv(H * W, POSITIONS)
    stop = tl.minimum((slot + 1) * share, tl.cast(batch, tl.int64) * tiles)
    for tile in range(slot * share, stop):
        b = tile // tiles
        p = (tile % tiles).to(tl.int32) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
        here = (p < H * W) & channel
        i = p // W
        j = p % W
        given = tl.load(dout + at(b, i, j, H, W, C) + c, mask=here, other=0.0).to(tl.float32)
        added = ()
        for n in tl.static_range(TOGETHER):
            t = first + n
            y = clamp(i + offset(dy, t, T), H)
            z = clamp(j + offset(dx, t, T), W)
            value = tl.load(x + at(b, y, z, H, W, C) + c, mask=here & (t < T), other=0.0)
            added = added + (sums[n] + given * value.to(tl.float32),)
        sums = added
    for n in tl.static_range(TOGETHER):
        t = first + n
        row = tl.sum(sums[n], 0)[None, :]
        tl.store(dweight + (slot * T + t) * C + c, row, mask=channel & (t < T))
