/* Sums of shifted maps, a weight for each shift and channel: forward and gradient of the weights.
 *
 * x (B, H, W, C) is read at (i + dy[t], j + dx[t]) for each tap t, zero outside, and added up with
 * weight (T, C) to a map (B, rows, columns, C). An item is one row of one sample.
 */

#define taps NAME(taps)

#ifndef MOST_TAPS
#define MOST_TAPS 64 /* as in cpu.py */
#define TOGETHER 4   /* columns or taps worked on together, in registers */
#endif

/* What one call works on; the same struct in cpu.py. */
typedef struct {
    int64_t batch, H, W, C, rows, columns, T;
    const int64_t *dy, *dx;
    const REAL *x, *weight;
    const REAL *dout; /* (B, rows, columns, C), for dweight */
    REAL *out;        /* (B, rows, columns, C) */
    REAL *dweight;    /* (B * rows, T, C), summed up by the caller */
} taps;

/* The taps that one output row of one vector of channels can read. */
typedef struct {
    int count;
    int64_t from, to; /* columns where every tap is inside the map */
    int64_t tap[MOST_TAPS], dx[MOST_TAPS];
    const REAL *row[MOST_TAPS]; /* address of what column 0 would read */
} NAME(reach);

INLINE NAME(reach) NAME(reach_of)(const taps *q, int64_t b, int64_t i, int64_t c) {
    NAME(reach) r;
    r.count = 0, r.from = 0, r.to = q->columns;
    for (int64_t t = 0; t < q->T; t++) {
        int64_t y = i + q->dy[t], dx = q->dx[t];
        if (y < 0 || y >= q->H) continue;
        r.tap[r.count] = t, r.dx[r.count] = dx;
        r.row[r.count++] = q->x + ((b * q->H + y) * q->W + dx) * q->C + c;
        if (-dx > r.from) r.from = -dx;
        if (q->W - dx < r.to) r.to = q->W - dx;
    }
    if (r.from > q->columns) r.from = q->columns;
    if (r.to < r.from) r.to = r.from;
    return r;
}

INLINE int NAME(inside)(const taps *q, const NAME(reach) *r, int t, int64_t j) {
    return j + r->dx[t] >= 0 && j + r->dx[t] < q->W;
}

INLINE void NAME(sum_vector)(const taps *q, int64_t b, int64_t i, int64_t c, int lanes) {
    NAME(reach) r = NAME(reach_of)(q, b, i, c);
    int64_t row = (b * q->rows + i) * q->columns * q->C + c, j = 0;
    vec w[MOST_TAPS];
    for (int t = 0; t < r.count; t++) w[t] = NAME(load)(q->weight + r.tap[t] * q->C + c, lanes);
    while (j < q->columns) {
        vec sum[TOGETHER] = {0};
        int together = j >= r.from && j + TOGETHER <= r.to ? TOGETHER : 1;
        if (together == TOGETHER)
            for (int t = 0; t < r.count; t++)
                for (int k = 0; k < TOGETHER; k++)
                    sum[k] += w[t] * NAME(load)(r.row[t] + (j + k) * q->C, lanes);
        else
            for (int t = 0; t < r.count; t++)
                if (NAME(inside)(q, &r, t, j))
                    sum[0] += w[t] * NAME(load)(r.row[t] + j * q->C, lanes);
        for (int k = 0; k < together; k++, j++)
            NAME(store)(q->out + row + j * q->C, sum[k], lanes);
    }
}

INLINE void NAME(dweight_vector)(const taps *q, int64_t b, int64_t i, int64_t c, int lanes) {
    NAME(reach) r = NAME(reach_of)(q, b, i, c);
    const REAL *dout = q->dout + (b * q->rows + i) * q->columns * q->C + c;
    REAL *slot = q->dweight + (b * q->rows + i) * q->T * q->C + c;
    for (int64_t t = 0; t < q->T; t++) NAME(store)(slot + t * q->C, (vec){0}, lanes);
    for (int first = 0; first < r.count; first += TOGETHER) {
        vec sum[TOGETHER] = {0};
        int count = r.count - first < TOGETHER ? r.count - first : TOGETHER;
        for (int64_t j = 0; j < q->columns; j++) {
            vec d = NAME(load)(dout + j * q->C, lanes);
            if (count == TOGETHER && j >= r.from && j < r.to)
                for (int k = 0; k < TOGETHER; k++)
                    sum[k] += d * NAME(load)(r.row[first + k] + j * q->C, lanes);
            else
                for (int k = 0; k < TOGETHER; k++)
                    if (k < count && NAME(inside)(q, &r, first + k, j))
                        sum[k] += d * NAME(load)(r.row[first + k] + j * q->C, lanes);
        }
        for (int k = 0; k < TOGETHER; k++)
            if (k < count) NAME(store)(slot + r.tap[first + k] * q->C, sum[k], lanes);
    }
}

INLINE void NAME(rows)(const taps *q, int64_t first, int64_t last, int gradient) {
    for (int64_t item = first; item < last; item++)
        for (int64_t c = 0; c < q->C; c += LANES) {
            int64_t b = item / q->rows, i = item % q->rows;
            int lanes = q->C - c < LANES ? q->C - c : LANES;
            if (gradient) NAME(dweight_vector)(q, b, i, c, lanes);
            else if (lanes < LANES) NAME(sum_vector)(q, b, i, c, lanes);
            else NAME(sum_vector)(q, b, i, c, LANES); /* whole vectors have code of their own */
        }
}

TARGET void NAME(tap_sum)(const taps *q, int64_t first, int64_t last) {
    taps own = *q; /* no array can overlap it, so that its fields stay in registers */
    NAME(rows)(&own, first, last, 0);
}

TARGET void NAME(tap_dweight)(const taps *q, int64_t first, int64_t last) {
    taps own = *q;
    NAME(rows)(&own, first, last, 1);
}

#undef taps
