"""The recurrences of 2DMamba and Mamba2D in Triton, forward and backward.

Symbols and shapes are those of reference.py. A program owns a block of channels and a group of
states of one sample, and walks the grid in strips of `COLUMNS` columns, left to right, each strip
row by row. Lanes are channels. What a row hands down stays in registers; what enters a strip from
the left was written to memory a strip before, by the same lane, so that no barrier is needed. So a
state goes through memory once in `COLUMNS` cells, and nothing is exchanged between lanes but for
the gradients of B and C, which are sums over channels.

A cell takes a state from its left and one from its top neighbour, and hands one right and one down.
With `TWO` (Mamba2D) each neighbour has an entry of its own, dt, A, B and dt_bias, and h goes both
ways. Without (2DMamba) left and top are the same entry, g goes right and h down.

Exponentials are of base 2 and step sizes s in units of ln 2, as in the selective scan's kernels. A
cell beyond the last column has position -1 and s = 0.

Arrays, beside those of reference.py, in float32, for N states of a group and P programs: A
(groups N, C); edges (P, strips, H, N, BLOCK), states that enter a strip from the left; tops
(P, strips, tiles, COLUMNS, N, BLOCK), states above each tile of `ROWS` rows. Rows of x, dt, B, C
and dy have any stride from position to position.
"""

import triton
import triton.language as tl

from ..selective_scan.gpu_kernels import (
    LN2,
    decays,
    enter,
    keep,
    number,
    rows,
    states,
    step_sizes,
)

SIZES = ["batch", "H", "W", "groups"]


@triton.jit
def share(channels, groups, BLOCK: tl.constexpr):
    """A program's block of channels, group of states and sample."""
    item = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCK)
    return item % blocks, item // blocks % groups, (item // blocks // groups).to(tl.int64)


@triton.jit
def make_entry(
    dt, dt_row, A, B, B_row, bias, c, inside, group, channels, N: tl.constexpr
):  # fmt: skip
    """A neighbour's dt, B, rates and bias, as far as a program reads them."""
    rates = states(A + group * N * channels + c, channels, inside, N)
    return dt + c, dt_row, B + group * N, B_row, rates, tl.load(bias + c, mask=inside, other=0.0)


@triton.jit
def cells(i, first, W, COLUMNS: tl.constexpr):
    """Positions of a strip's cells in row i."""
    ps = ()
    for j in tl.static_range(COLUMNS):
        ps = ps + (tl.where(first + j < W, i * W + first + j, -1),)
    return ps


@triton.jit
def entry_sizes(entry, base, ps, inside, COLUMNS: tl.constexpr):
    """Step sizes of some cells, and the derivatives of softplus there."""
    dt, dt_row, _, _, _, bias = entry
    return step_sizes(dt, dt_row, dt, 0, 0, bias, base, ps, inside, False, COLUMNS)


@triton.jit
def both_sizes(left, top, base, ps, inside, COLUMNS: tl.constexpr, TWO: tl.constexpr):
    """Step sizes from the left and from the top, and the derivatives of softplus."""
    s_left, slope_left = entry_sizes(left, base, ps, inside, COLUMNS)
    s_top = s_left
    slope_top = slope_left
    if TWO:
        s_top, slope_top = entry_sizes(top, base, ps, inside, COLUMNS)
    return s_left, s_top, slope_left, slope_top


@triton.jit
def weights(i, j):
    """What Mamba2D's left and top neighbour count: a half each, at the border one alone."""
    top = tl.where(i == 0, 0.0, tl.where(j == 0, 1.0, 0.5))
    return 1.0 - top, top


@triton.jit
def no_states(like, N: tl.constexpr):
    """N states of zero."""
    h = ()
    for n in tl.static_range(N):
        h = h + (tl.zeros_like(like),)
    return h


@triton.jit
def row_states(at, where, COLUMNS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
    """N states for each column of a strip."""
    h = ()
    for j in tl.static_range(COLUMNS):
        h = h + (states(at + j * N * BLOCK, BLOCK, where, N),)
    return h


@triton.jit
def keep_row(at, where, h, COLUMNS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
    """Store N states for each column of a strip."""
    for j in tl.static_range(COLUMNS):
        keep(at + j * N * BLOCK, BLOCK, where, h[j], N)


@triton.jit
def trace(
    edge, above, left, top, us, s_left, s_top, base, ps, i, first,
    N: tl.constexpr, COLUMNS: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    """The states that a row's cells hand right and down, from those that come to them."""
    _, _, B_left, B_left_row, rates_left, _ = left
    _, _, B_top, B_top_row, rates_top, _ = top
    before = edge
    right = ()
    down = ()
    for j in tl.static_range(COLUMNS):
        a = decays(s_left[j], rates_left, N)
        g = enter(before, a, s_left[j] * LN2 * us[j], B_left, B_left_row, base, ps[j], N)
        h = ()
        if TWO:
            a = decays(s_top[j], rates_top, N)
            v = enter(above[j], a, s_top[j] * LN2 * us[j], B_top, B_top_row, base, ps[j], N)
            weight_left, weight_top = weights(i, first + j)
            for n in tl.static_range(N):
                h = h + (weight_left * g[n] + weight_top * v[n],)
            g = h
        else:
            for n in tl.static_range(N):
                h = h + (a[n] * above[j][n] + g[n],)
        before = g
        right = right + (g,)
        down = down + (h,)
    return right, down


@triton.jit(do_not_specialize=SIZES)
def forward(
    x, dt_left, dt_top, A_left, A_top, B_left, B_top, bias_left, bias_top, C, D, y, edges, tops,
    x_row, dt_left_row, dt_top_row, B_left_row, B_top_row, C_row,
    batch, H, W, channels, groups,
    N: tl.constexpr, TWO: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Each group's part of y (groups, B, H, W, C); with EDGES, edges and tops instead.

    Without EDGES all strips share edges (P, 1, H, N, BLOCK), each row read before it is written.
    """
    program = tl.program_id(0).to(tl.int64)
    block, group, b = share(channels, groups, BLOCK)
    lane = tl.arange(0, BLOCK)
    c = block * BLOCK + lane
    inside = c < channels
    base = b * H * W
    strips = tl.cdiv(W, COLUMNS)
    left = make_entry(
        dt_left, dt_left_row, A_left, B_left, B_left_row, bias_left, c, inside, group, channels, N
    )
    top = make_entry(
        dt_top, dt_top_row, A_top, B_top, B_top_row, bias_top, c, inside, group, channels, N
    )
    skip = tl.load(D + c, mask=inside & (group == 0), other=0.0)
    y_b = y + (group * batch + b) * H * W * channels + c
    for strip in range(strips):
        first = strip * COLUMNS
        here = program
        following = program
        if EDGES:
            here = program * strips + strip
            following = here + 1
        above = ()
        for j in tl.static_range(COLUMNS):
            above = above + (no_states(skip, N),)
        for i in range(H):
            if EDGES:
                at = tops + (here * tl.cdiv(H, ROWS) + i // ROWS) * (COLUMNS * N * BLOCK) + lane
                keep_row(at, inside & (i % ROWS == 0), above, COLUMNS, N, BLOCK)
            ps = cells(i, first, W, COLUMNS)
            us = rows(x + c, x_row, base, ps, inside, COLUMNS)
            s_left, s_top, _, _ = both_sizes(left, top, base, ps, inside, COLUMNS, TWO)
            at = edges + (here * H + i) * (N * BLOCK) + lane
            edge = states(at, BLOCK, inside & (strip > 0), N)
            right, above = trace(
                edge, above, left, top, us, s_left, s_top, base, ps, i, first, N, COLUMNS, TWO
            )
            at = edges + (following * H + i) * (N * BLOCK) + lane
            keep(at, BLOCK, inside & (strip < strips - 1), right[COLUMNS - 1], N)
            if not EDGES:
                for j in tl.static_range(COLUMNS):
                    out = skip * us[j]
                    for n in tl.static_range(N):
                        out += above[j][n] * number(C + group * N + n, C_row, base, ps[j])
                    at = y_b + ps[j].to(tl.int64) * channels
                    tl.store(at, out, mask=inside & (ps[j] >= 0))


@triton.jit
def state_gradients(
    w_right, w_down, dy, C, C_row, base, p, i, j, N: tl.constexpr, TWO: tl.constexpr
):  # fmt: skip
    """Gradients of what comes to a cell from the left and the top, from what it was handed back."""
    weight_left, weight_top = weights(i, j)
    g_left = ()
    g_top = ()
    for n in tl.static_range(N):
        g = w_down[n] + dy * number(C + n, C_row, base, p)
        if TWO:
            g_left = g_left + (weight_left * (g + w_right[n]),)
            g_top = g_top + (weight_top * (g + w_right[n]),)
        else:
            g_left = g_left + (g + w_right[n],)
            g_top = g_top + (g,)
    return g_left, g_top


@triton.jit
def hand_back(g, s, entry, before, N: tl.constexpr):
    """What goes back to the states before a cell, and the gradients of its decays times them."""
    _, _, _, _, rates, _ = entry
    a = decays(s, rates, N)
    back = ()
    decayed = ()
    for n in tl.static_range(N):
        back = back + (g[n] * a[n],)
        decayed = decayed + (g[n] * a[n] * before[n],)
    return back, decayed


@triton.jit
def add(a, b, N: tl.constexpr):
    """Sums for each of N states."""
    c = ()
    for n in tl.static_range(N):
        c = c + (a[n] + b[n],)
    return c


@triton.jit
def sum_channels(at, factor, values, p, N: tl.constexpr):
    """Store the sums over channels of N products."""
    for n in tl.static_range(N):
        tl.store(at + n, tl.sum(factor * values[n]), mask=p >= 0)


@triton.jit
def entry_gradients(g, decayed, s, slope, u, sum_A, entry, base, p, N: tl.constexpr):
    """A cell's gradients of x and of dt before softplus, and those of A added up.

    From g, the gradients of delta B x, and decayed, those of the decays times the decays.
    """
    _, _, B, B_row, rates, _ = entry
    delta = s * LN2
    gB = tl.zeros_like(u)
    ddelta = tl.zeros_like(u)
    sums = ()
    for n in tl.static_range(N):
        gB += g[n] * number(B + n, B_row, base, p)
        ddelta += decayed[n] * rates[n]
        sums = sums + (sum_A[n] + decayed[n] * delta,)
    return gB * delta, (ddelta + gB * u) * slope, sums


@triton.jit(do_not_specialize=SIZES)
def backward(
    x, dt_left, dt_top, A_left, A_top, B_left, B_top, bias_left, bias_top, C, D, dy, edges, tops,
    handed, scratch, dx, dz_left, dz_top, dA_left, dA_top, dB_left, dB_top, dbias_left, dbias_top,
    dC, dD,
    x_row, dt_left_row, dt_top_row, B_left_row, B_top_row, C_row, dy_row,
    batch, H, W, channels, groups,
    N: tl.constexpr, TWO: tl.constexpr, BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients: strips from right to left, tiles from the bottom up, each traced again first.

    dx and dz, before softplus, are each group's part (groups, B, H, W, C). Sums over cells go to a
    slot a sample: dA (B, groups N, C), dbias (B groups, C), dD (B, C); sums over channels to one a
    block: dB and dC (blocks, B, H, W, groups N). handed (P, H, N, BLOCK) is what a strip hands back
    to the one on its left; scratch (P, ROWS + 1, COLUMNS, N, BLOCK) the states above a tile's rows,
    and below the last. Arrays for the top are used with TWO alone.
    """
    program = tl.program_id(0).to(tl.int64)
    block, group, b = share(channels, groups, BLOCK)
    lane = tl.arange(0, BLOCK)
    c = block * BLOCK + lane
    inside = c < channels
    base = b * H * W
    strips = tl.cdiv(W, COLUMNS)
    tiles = tl.cdiv(H, ROWS)
    left = make_entry(
        dt_left, dt_left_row, A_left, B_left, B_left_row, bias_left, c, inside, group, channels, N
    )
    top = make_entry(
        dt_top, dt_top_row, A_top, B_top, B_top_row, bias_top, c, inside, group, channels, N
    )
    skip = tl.load(D + c, mask=inside & (group == 0), other=0.0)
    size = COLUMNS * N * BLOCK  # of a row of states
    slots = scratch + program * (ROWS + 1) * size + lane
    sum_D = tl.zeros_like(skip)
    sum_bias_left = tl.zeros_like(skip)
    sum_bias_top = tl.zeros_like(skip)
    sum_A_left = no_states(skip, N)
    sum_A_top = no_states(skip, N)
    for strips_done in range(strips):
        strip = strips - 1 - strips_done
        first = strip * COLUMNS
        here = program * strips + strip
        w_down = ()
        for j in tl.static_range(COLUMNS):
            w_down = w_down + (no_states(skip, N),)
        for tiles_done in range(tiles):
            tile = tiles - 1 - tiles_done
            start = tile * ROWS
            height = tl.minimum(ROWS, H - start)
            at = tops + (here * tiles + tile) * size + lane
            above = row_states(at, inside & (tile > 0), COLUMNS, N, BLOCK)
            keep_row(slots, inside, above, COLUMNS, N, BLOCK)
            for r in range(height):
                i = start + r
                ps = cells(i, first, W, COLUMNS)
                us = rows(x + c, x_row, base, ps, inside, COLUMNS)
                s_left, s_top, _, _ = both_sizes(left, top, base, ps, inside, COLUMNS, TWO)
                at = edges + (here * H + i) * (N * BLOCK) + lane
                edge = states(at, BLOCK, inside & (strip > 0), N)
                _, above = trace(
                    edge, above, left, top, us, s_left, s_top, base, ps, i, first, N, COLUMNS, TWO
                )
                keep_row(slots + (r + 1) * size, inside, above, COLUMNS, N, BLOCK)
            for rows_done in range(height):
                r = height - 1 - rows_done
                i = start + r
                ps = cells(i, first, W, COLUMNS)
                us = rows(x + c, x_row, base, ps, inside, COLUMNS)
                dys = rows(dy + c, dy_row, base, ps, inside, COLUMNS)
                s_left, s_top, slope_left, slope_top = both_sizes(
                    left, top, base, ps, inside, COLUMNS, TWO
                )
                at = edges + (here * H + i) * (N * BLOCK) + lane
                edge = states(at, BLOCK, inside & (strip > 0), N)
                above = row_states(slots + r * size, inside, COLUMNS, N, BLOCK)
                down = row_states(slots + (r + 1) * size, inside, COLUMNS, N, BLOCK)
                right = down
                if not TWO:
                    right, _ = trace(
                        edge, above, left, top, us, s_left, s_top, base, ps, i, first,
                        N, COLUMNS, TWO,
                    )  # fmt: skip
                hand = handed + (program * H + i) * (N * BLOCK) + lane
                w_right = states(hand, BLOCK, inside & (strip < strips - 1), N)
                w_up = ()
                for j in tl.static_range(COLUMNS - 1, -1, -1):
                    p = ps[j]
                    u = us[j]
                    cell = inside & (p >= 0)
                    map_at = ((group * batch + b) * H * W + p) * channels + c
                    number_at = ((block * batch + b) * H * W + p) * groups * N + group * N
                    before = edge
                    if j > 0:
                        before = right[j - 1]
                    g_left, g_top = state_gradients(
                        w_right, w_down[j], dys[j], C + group * N, C_row, base, p, i, first + j,
                        N, TWO,
                    )  # fmt: skip
                    w_right, decayed = hand_back(g_left, s_left[j], left, before, N)
                    back, decayed_top = hand_back(g_top, s_top[j], top, above[j], N)
                    w_up = (back,) + w_up
                    if not TWO:
                        decayed = add(decayed, decayed_top, N)
                    dx_j, dz, sum_A_left = entry_gradients(
                        g_left, decayed, s_left[j], slope_left[j], u, sum_A_left, left, base, p, N
                    )
                    sum_channels(dB_left + number_at, s_left[j] * LN2 * u, g_left, p, N)
                    sum_channels(dC + number_at, dys[j], down[j], p, N)
                    tl.store(dz_left + map_at, dz, mask=cell)
                    sum_bias_left += tl.where(cell, dz, 0.0)
                    if TWO:
                        dx_top, dz, sum_A_top = entry_gradients(
                            g_top, decayed_top, s_top[j], slope_top[j], u, sum_A_top, top, base, p,
                            N,
                        )  # fmt: skip
                        dx_j += dx_top
                        sum_channels(dB_top + number_at, s_top[j] * LN2 * u, g_top, p, N)
                        tl.store(dz_top + map_at, dz, mask=cell)
                        sum_bias_top += tl.where(cell, dz, 0.0)
                    tl.store(dx + map_at, dx_j + skip * dys[j], mask=cell)
                    sum_D += dys[j] * u
                w_down = w_up
                keep(hand, BLOCK, inside & (strip > 0), w_right, N)
    tl.store(dD + b * channels + c, sum_D, mask=inside & (group == 0))
    slot = b * groups + group
    tl.store(dbias_left + slot * channels + c, sum_bias_left, mask=inside)
    keep(dA_left + slot * N * channels + c, channels, inside, sum_A_left, N)
    if TWO:
        tl.store(dbias_top + slot * channels + c, sum_bias_top, mask=inside)
        keep(dA_top + slot * N * channels + c, channels, inside, sum_A_top, N)
