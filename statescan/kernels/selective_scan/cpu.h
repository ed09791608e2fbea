/* The selective scan: forward and backward, routes and merge fused.
 *
 * Symbols and shapes are those of reference.py; everything is channels last and contiguous.
 *
 *     x   (B, L, C) or (B, L, K, C)     dt (B, L, K, C) or (B, L, K, R)     B, C (B, L, K, N)
 *     A   (K, N, C)    D, dt_bias (K, C)    dt_weight (K, R, C)    routes (K, T), -1 is no step
 *
 * An item is one sample's block of channels, all routes one after the other. It adds to rows of y
 * or dx that no other item touches; what items must add up (gradients of B, C and the parameters)
 * goes to one slot an item, summed by the caller.
 *
 * Time is cut into chunks. What a chunk needs is first gathered, each row touched once, into
 * arrays [vector][step]; then all that does not depend on the step before is computed, so that the
 * processor works on many steps at once, and the recurrence is left with one multiply-add.
 */

#ifndef CHUNK

#define CHUNK 64 /* steps between two saved states, as in streaming.py */
#define ROOM (CHUNK + 3) /* arrays a multiple of 4 kB apart would compete for cache lines */
#define GROUP 8  /* steps whose low-rank dt is expanded together, in registers */

/* Where the steps of one chunk are: their number, positions (b, l) and rows (b, l, k). */
typedef struct {
    int steps;
    int64_t position[CHUNK], row[CHUNK];
} visits;

#endif

#define scan NAME(scan)
#define chunk NAME(chunk)
#define VECTORS (BLOCK / LANES)

/* What one call works on; the same struct in cpu.py. Absent arrays are NULL. */
typedef struct {
    int64_t batch, L, C, K, N, R, T; /* R is 0 where dt has C values */
    int64_t block;        /* channels an item works on, at most BLOCK */
    int64_t own_x, apart; /* whether each route has an x of its own, and a y of its own */
    int64_t once; /* whether every route visits every position exactly once: dz is filled */
    const REAL *x, *dt, *A, *B, *Cm, *D, *weight, *bias;
    const int32_t *routes;
    REAL *y, *saved; /* forward; saved (chunks + 1, K, batch, N, C), zeros before the first chunk */
    const REAL *dy;  /* backward from here */
    REAL *dx, *dz;   /* rows like x's; (batch, L, K, C) before softplus, where dt has C values */
    REAL *dh, *dA;   /* (batch, K, N, C); dh is what later steps hand back to a chunk's last state */
    REAL *dD, *dbias; /* (batch, K, C) */
    REAL *dB, *dC;    /* (blocks, batch, L, K, N) */
    REAL *ddt, *dweight; /* low-rank dt: (blocks, batch, L, K, R), (batch, K, R, C) */
} scan;

/* One chunk i of route k of sample b: channels [c, c + width) of block number `block`. */
typedef struct {
    int64_t b, k, i, block, c, width;
    int whole; /* whether width is a multiple of LANES, known when compiled */
    const visits *at, *next; /* next: the chunk that follows */
} chunk;

INLINE int NAME(vectors)(const chunk *p) { return (p->width + LANES - 1) / LANES; }

INLINE int NAME(lanes)(const chunk *p, int v) {
    return p->whole || p->width - v * LANES >= LANES ? LANES : p->width - v * LANES;
}

INLINE const int64_t *NAME(x_rows)(const scan *q, const visits *at) {
    return q->own_x ? at->row : at->position;
}

INLINE const int64_t *NAME(y_rows)(const scan *q, const visits *at) {
    return q->apart ? at->row : at->position;
}

/* Of a parameter (K, C): the block's channels. */
INLINE int64_t NAME(parameter)(const scan *q, const chunk *p) { return p->k * q->C + p->c; }

/* Of an array (batch, K, N, C): the block's channels at n. */
INLINE int64_t NAME(at_state)(const scan *q, const chunk *p, int64_t n) {
    return ((p->b * q->K + p->k) * q->N + n) * q->C + p->c;
}

/* Of the saved states (chunks + 1, K, batch, N, C) before chunk i: the block's channels at n. */
INLINE REAL *NAME(state)(const scan *q, const chunk *p, int64_t i, int64_t n) {
    return q->saved + (((i * q->K + p->k) * q->batch + p->b) * q->N + n) * q->C + p->c;
}

/* Copy the rows of an array (rows, C) into out [vector][step]. */
INLINE void NAME(gather)(const scan *q, const chunk *p, const REAL *rows, const int64_t *row,
                         vec (*out)[ROOM]) {
    for (int s = 0; s < p->at->steps; s++)
        for (int v = 0; v < NAME(vectors)(p); v++)
            out[v][s] =
                NAME(load)(rows + row[s] * q->C + p->c + v * LANES, NAME(lanes)(p, v));
}

/* Bring the block's channels of one row closer. */
INLINE void NAME(prefetch_row)(const scan *q, const chunk *p, const REAL *rows, int64_t row) {
    for (int64_t byte = 0; byte < p->width * (int64_t)sizeof(REAL); byte += 64)
        __builtin_prefetch((const char *)(rows + row * q->C + p->c) + byte, 0, 2);
}

/* Bring the next chunk's rows closer, a part of them for each vector of this one: they are too far
 * apart for the processor to guess, and asked for all at once they would have to queue. */
INLINE void NAME(prefetch)(const scan *q, const chunk *p, int v, int backward) {
    const int share = CHUNK / VECTORS;
    for (int s = v * share; s < (v + 1) * share && s < p->next->steps; s++) {
        NAME(prefetch_row)(q, p, q->x, NAME(x_rows)(q, p->next)[s]);
        if (!q->R) NAME(prefetch_row)(q, p, q->dt, p->next->row[s]);
        if (!backward) continue;
        NAME(prefetch_row)(q, p, q->dy, NAME(y_rows)(q, p->next)[s]);
        if (!q->R) NAME(prefetch_row)(q, p, q->dz, p->next->row[s]);
        NAME(prefetch_row)(q, p, q->dx, NAME(x_rows)(q, p->next)[s]);
    }
}

/* Expand the low-rank dt of a chunk, one vector of channels, into z. */
INLINE void NAME(expand)(const scan *q, const chunk *p, int v, vec *z) {
    const REAL *weight = q->weight + p->k * q->R * q->C + p->c + v * LANES;
    for (int first = 0; first < p->at->steps; first += GROUP) {
        const int64_t *row = p->at->row + first;
        vec sum[GROUP] = {0};
        for (int64_t r = 0; r < q->R; r++) {
            vec w = NAME(load)(weight + r * q->C, NAME(lanes)(p, v));
#pragma GCC unroll 8
            for (int s = 0; s < GROUP; s++) sum[s] += q->dt[row[s] * q->R + r] * w;
        }
        for (int s = 0; s < GROUP; s++) z[first + s] = sum[s];
    }
}

/* Turn dt of a chunk, one vector of channels, into step sizes; the derivative of softplus there
 * too, where asked for. */
INLINE void NAME(step_sizes)(const scan *q, const chunk *p, int v, vec *delta, vec *sigmoid) {
    vec bias = NAME(load)(q->bias + NAME(parameter)(q, p) + v * LANES, NAME(lanes)(p, v));
    if (q->R) NAME(expand)(q, p, v, delta);
    for (int s = 0; s < p->at->steps; s++)
        delta[s] = NAME(softplus)(delta[s] + bias, sigmoid ? &sigmoid[s] : NULL);
}

INLINE void NAME(forward_chunk)(const scan *q, const chunk *p) {
    vec delta[VECTORS][ROOM], x[VECTORS][ROOM], y[VECTORS][ROOM];
    const int64_t *row = p->at->row, *y_row = NAME(y_rows)(q, p->at);
    NAME(gather)(q, p, q->x, NAME(x_rows)(q, p->at), x);
    if (!q->R) NAME(gather)(q, p, q->dt, row, delta);
    for (int v = 0; v < NAME(vectors)(p); v++) {
        int lanes = NAME(lanes)(p, v), c = v * LANES;
        NAME(prefetch)(q, p, v, 0);
        NAME(step_sizes)(q, p, v, delta[v], NULL);
        vec D = NAME(load)(q->D + NAME(parameter)(q, p) + c, lanes);
        for (int64_t n = 0; n < q->N; n++) {
            vec A = NAME(load)(q->A + (p->k * q->N + n) * q->C + p->c + c, lanes) * LOG2E;
            vec h = NAME(load)(NAME(state)(q, p, p->i, n) + c, lanes);
            for (int s = 0; s < p->at->steps; s++) {
                vec entering = delta[v][s] * x[v][s] * q->B[row[s] * q->N + n];
                h = NAME(exp2)(delta[v][s] * A) * h + entering;
                vec before = n ? y[v][s] : D * x[v][s];
                y[v][s] = before + h * q->Cm[row[s] * q->N + n];
            }
            NAME(store)(NAME(state)(q, p, p->i + 1, n) + c, h, lanes);
        }
    }
    for (int s = 0; s < p->at->steps; s++)
        for (int v = 0; v < NAME(vectors)(p); v++)
            NAME(add)(q->y + y_row[s] * q->C + p->c + v * LANES, y[v][s], NAME(lanes)(p, v));
}

/* Add each step's sum over lanes to out. */
INLINE void NAME(add_sums)(const vec *of, int steps, REAL *out) {
    REAL sums[CHUNK];
    NAME(sums)(of, steps, sums);
    for (int s = 0; s < steps; s++) out[s] += sums[s];
}

/* One state of one vector of channels backwards: adds to gB and ddelta, which the first state
 * fills, and to the gradients of A, B and C.
 * dh holds the gradient that later steps hand back to the chunk's last state, and becomes that of
 * the state before the chunk. */
INLINE void NAME(backward_state)(const scan *q, const chunk *p, int v, int64_t n, const vec *delta,
                                 const vec *x, const vec *dy, vec *gB, vec *ddelta, REAL *dB,
                                 REAL *dC) {
    int lanes = NAME(lanes)(p, v), c = v * LANES, steps = p->at->steps;
    const int64_t *row = p->at->row;
    int64_t state = NAME(at_state)(q, p, n) + c;
    vec a[ROOM], h[ROOM]; /* overwritten by the products that dB and dC are sums of */
    vec A = NAME(load)(q->A + (p->k * q->N + n) * q->C + p->c + c, lanes), dA = {0};
    vec w = NAME(load)(q->dh + state, lanes);
    vec now = h[0] = NAME(load)(NAME(state)(q, p, p->i, n) + c, lanes);
    for (int s = 0; s < steps; s++) {
        a[s] = NAME(exp2)(delta[s] * (A * LOG2E));
        h[s + 1] = now = a[s] * now + delta[s] * x[s] * q->B[row[s] * q->N + n];
    }
    for (int s = steps - 1; s >= 0; s--) {
        vec g = w + dy[s] * q->Cm[row[s] * q->N + n];
        w = g * a[s];
        vec decayed = w * h[s];
        gB[s] = (n ? gB[s] : (vec){0}) + g * q->B[row[s] * q->N + n];
        ddelta[s] = (n ? ddelta[s] : (vec){0}) + decayed * A;
        dA += decayed * delta[s];
        a[s] = g * (delta[s] * x[s]);
        h[s + 1] *= dy[s];
    }
    NAME(add_sums)(a, steps, dB);
    NAME(add_sums)(h + 1, steps, dC);
    NAME(add)(q->dA + state, dA, lanes);
    NAME(store)(q->dh + state, w, lanes);
}

/* Gradients of the low-rank dt and its weight, from dz (vectors, steps) before softplus. */
INLINE void NAME(backward_expand)(const scan *q, const chunk *p, vec (*dz)[ROOM]) {
    int steps = p->at->steps;
    const int64_t *row = p->at->row;
    for (int64_t r = 0; r < q->R; r++) {
        REAL sums[CHUNK];
        vec total[ROOM];
        for (int v = 0; v < NAME(vectors)(p); v++) {
            int lanes = NAME(lanes)(p, v);
            int64_t c = p->c + v * LANES;
            REAL *dweight = q->dweight + ((p->b * q->K + p->k) * q->R + r) * q->C + c;
            vec w = NAME(load)(q->weight + (p->k * q->R + r) * q->C + c, lanes), dw = {0};
            for (int s = 0; s < steps; s++) {
                total[s] = (v ? total[s] : (vec){0}) + dz[v][s] * w;
                dw += dz[v][s] * q->dt[row[s] * q->R + r];
            }
            NAME(add)(dweight, dw, lanes);
        }
        NAME(sums)(total, steps, sums);
        REAL *ddt = q->ddt + p->block * q->batch * q->L * q->K * q->R + r;
        for (int s = 0; s < steps; s++) ddt[row[s] * q->R] += sums[s];
    }
}

INLINE void NAME(backward_chunk)(const scan *q, const chunk *p) {
    vec delta[VECTORS][ROOM], x[VECTORS][ROOM], dy[VECTORS][ROOM];
    vec sigmoid[ROOM], gB[ROOM], ddelta[ROOM]; /* of one vector at a time, to stay in the cache */
    REAL dB[q->N][CHUNK], dC[q->N][CHUNK]; /* sums over the block's channels */
    const int64_t *x_row = NAME(x_rows)(q, p->at);
    memset(dB, 0, sizeof dB);
    memset(dC, 0, sizeof dC);
    NAME(gather)(q, p, q->x, x_row, x);
    NAME(gather)(q, p, q->dy, NAME(y_rows)(q, p->at), dy);
    if (!q->R) NAME(gather)(q, p, q->dt, p->at->row, delta);
    for (int v = 0; v < NAME(vectors)(p); v++) {
        int lanes = NAME(lanes)(p, v);
        NAME(prefetch)(q, p, v, 1);
        NAME(step_sizes)(q, p, v, delta[v], sigmoid);
        int64_t c = NAME(parameter)(q, p) + v * LANES, sums = p->b * q->K * q->C + c;
        vec D = NAME(load)(q->D + c, lanes), dD = {0}, dbias = {0};
        for (int64_t n = 0; n < q->N; n++)
            NAME(backward_state)(q, p, v, n, delta[v], x[v], dy[v], gB, ddelta, dB[n], dC[n]);
        for (int s = 0; s < p->at->steps; s++) { /* x and delta become their own gradients */
            vec dz = (ddelta[s] + gB[s] * x[v][s]) * sigmoid[s];
            dD += dy[v][s] * x[v][s];
            dbias += dz;
            x[v][s] = gB[s] * delta[v][s] + D * dy[v][s];
            delta[v][s] = dz;
        }
        NAME(add)(q->dD + sums, dD, lanes);
        NAME(add)(q->dbias + sums, dbias, lanes);
    }
    for (int s = 0; s < p->at->steps; s++) {
        int64_t row = p->at->row[s], slot = (p->block * q->batch * q->L * q->K + row) * q->N;
        for (int64_t n = 0; n < q->N; n++) q->dB[slot + n] += dB[n][s], q->dC[slot + n] += dC[n][s];
        for (int v = 0; v < NAME(vectors)(p); v++) {
            int lanes = NAME(lanes)(p, v), c = p->c + v * LANES;
            REAL *dz = q->dz + row * q->C + c;
            NAME(add)(q->dx + x_row[s] * q->C + c, x[v][s], lanes);
            if (q->R) continue;
            if (q->once) NAME(store)(dz, delta[v][s], lanes);
            else NAME(add)(dz, delta[v][s], lanes);
        }
    }
    if (q->R) NAME(backward_expand)(q, p, delta);
}

/* The steps of chunk i, none if there is no such chunk; beyond the last, up to a whole GROUP, the
 * last one's row again. */
INLINE void NAME(visit)(const scan *q, int64_t i, int64_t k, int64_t b, visits *at) {
    at->steps = 0;
    for (int64_t t = i * CHUNK; i >= 0 && t < q->T && t < (i + 1) * CHUNK; t++) {
        int64_t position = q->routes[k * q->T + t];
        if (position < 0) continue;
        at->position[at->steps] = b * q->L + position;
        at->row[at->steps++] = (b * q->L + position) * q->K + k;
    }
    for (int s = at->steps; s % GROUP; s++) at->row[s] = at->row[s - 1];
}

/* All chunks of a route for one block of one sample. */
INLINE void NAME(route)(const scan *q, chunk p, int backward) {
    int64_t chunks = (q->T + CHUNK - 1) / CHUNK, step = backward ? -1 : 1;
    visits at[2];
    p.i = backward ? chunks - 1 : 0;
    NAME(visit)(q, p.i, p.k, p.b, &at[0]);
    for (int64_t j = 0; j < chunks; j++, p.i += step) {
        p.at = &at[j % 2], p.next = &at[(j + 1) % 2];
        NAME(visit)(q, p.i + step, p.k, p.b, &at[(j + 1) % 2]);
        if (backward) NAME(backward_chunk)(q, &p);
        else NAME(forward_chunk)(q, &p);
    }
}

/* Items [first, last); blocks of whole vectors have code of their own. */
INLINE void NAME(items)(const scan *q, int64_t first, int64_t last, int backward) {
    int64_t blocks = (q->C + q->block - 1) / q->block;
    for (int64_t item = first; item < last; item++) {
        chunk p = {.b = item / blocks, .block = item % blocks, .c = item % blocks * q->block};
        p.width = q->C - p.c < q->block ? q->C - p.c : q->block;
        for (p.k = 0; p.k < q->K; p.k++)
            if (p.width % LANES == 0) {
                p.whole = 1;
                NAME(route)(q, p, backward);
            } else {
                p.whole = 0;
                NAME(route)(q, p, backward);
            }
    }
}

TARGET void NAME(selective_scan_forward)(const scan *q, int64_t first, int64_t last) {
    scan own = *q; /* no array can overlap it, so that its fields stay in registers */
    NAME(items)(&own, first, last, 0);
}

TARGET void NAME(selective_scan_backward)(const scan *q, int64_t first, int64_t last) {
    scan own = *q;
    NAME(items)(&own, first, last, 1);
}

#undef scan
#undef chunk
#undef VECTORS
