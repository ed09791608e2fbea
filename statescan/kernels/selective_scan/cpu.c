/* The selective scan on a CPU: forward and backward, routes and merge fused, in plain C.
 *
 * No headers of torch or Python: the library is loaded with ctypes and survives every release of
 * either. Symbols and shapes are those of reference.py; everything is channels last and contiguous.
 *
 *     x   (B, L, C) or (B, L, K, C)     dt (B, L, K, C) or (B, L, K, R)     B, C (B, L, K, N)
 *     A   (K, N, C)    D, dt_bias (K, C)    dt_weight (K, R, C)    routes (K, T), -1 is no step
 *
 * The work is cut into items: one sample's block of up to BLOCK channels, all routes one after the
 * other. An item adds to rows of y or dx that no other item touches, and what items must add up
 * (gradients of B, C and the parameters) goes to one slot an item, summed by the caller: the result
 * has the same bits for any number of threads. A caller runs items [first, last) on a thread.
 *
 * Arithmetic is on vectors of 64 bytes (GCC's and Clang's vector extension), which become whatever
 * the machine has; target_clones picks the best version when the library is loaded.
 */

#ifndef REAL

#include <stdint.h>
#include <string.h>

#define CHUNK 64 /* steps between two saved states, as in streaming.py */
#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define REAL float
#define INTEGER int32_t
#define MANTISSA 23
#define BIAS 127
#define LOWEST -126.0f
#define EXP_TERMS 7
#define LOG_TERMS 7
#define SUFFIX _f32
#include "cpu.c"
#undef REAL
#undef INTEGER
#undef MANTISSA
#undef BIAS
#undef LOWEST
#undef EXP_TERMS
#undef LOG_TERMS
#undef SUFFIX

#define REAL double
#define INTEGER int64_t
#define MANTISSA 52
#define BIAS 1023
#define LOWEST -1022.0
#define EXP_TERMS 13
#define LOG_TERMS 17
#define SUFFIX _f64
#include "cpu.c"

#else

#define NAME(name) JOIN(name, SUFFIX)
#define LANES (64 / (int)sizeof(REAL))
#define vec NAME(vec)
#define ivec NAME(ivec)
#define problem NAME(problem)

typedef REAL vec __attribute__((vector_size(64)));
typedef INTEGER ivec __attribute__((vector_size(64)));

/* What one call works on; the same struct in cpu.py. Absent arrays are NULL. */
typedef struct {
    int64_t batch, L, C, K, N, R, T, block; /* R is 0 where dt has C values; block in vectors */
    int64_t own_x, apart; /* whether each route has an x of its own, and a y of its own */
    const REAL *x, *dt, *A, *B, *Cm, *D, *weight, *bias;
    const int32_t *routes;
    REAL *y, *saved; /* forward; saved (chunks + 1, K, batch, N, C) */
    const REAL *dy;  /* backward from here */
    REAL *dx, *dz;   /* rows like x's; (batch, L, K, C) before softplus */
    REAL *dA, *dD, *dbias; /* (batch, K, N, C), (batch, K, C) */
    REAL *dB, *dC;         /* (blocks, batch, L, K, N) */
} problem;

/* Lanes of a block's last vector may lie beyond C: they are read as zeros and not written. */
INLINE vec NAME(load)(const REAL *from, int lanes) {
    vec v = {0};
    if (lanes == LANES) memcpy(&v, from, sizeof v);
    else memcpy(&v, from, lanes * sizeof(REAL));
    return v;
}

INLINE void NAME(store)(REAL *to, vec v, int lanes) {
    if (lanes == LANES) memcpy(to, &v, sizeof v);
    else memcpy(to, &v, lanes * sizeof(REAL));
}

INLINE void NAME(add)(REAL *to, vec v, int lanes) {
    NAME(store)(to, NAME(load)(to, lanes) + v, lanes);
}

INLINE REAL NAME(sum)(vec v) {
    REAL total[LANES];
    memcpy(total, &v, sizeof v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) total[i] += total[i + width];
    return total[0];
}

INLINE vec NAME(fill)(REAL value) { return value - (vec){0}; }

INLINE vec NAME(pick)(ivec where, vec yes, vec no) {
    return (vec)((where & (ivec)yes) | (~where & (ivec)no));
}

/* 2^v: v is split into the nearest integer, which goes to the exponent, and a rest in [-1/2, 1/2],
 * for which the exponential series is cut where it is below the type's precision. The integer is
 * applied in two halves, so that results beyond the normal numbers come out as 0 or infinity. */
INLINE vec NAME(exp2)(vec v) {
    const REAL shift = (REAL)1.5 * ((INTEGER)1 << MANTISSA);
    vec low = NAME(fill)(2 * LOWEST), high = NAME(fill)(-2 * LOWEST);
    v = NAME(pick)(v < low, low, NAME(pick)(v > high, high, v));
    vec whole = (v + shift) - shift;
    vec f = (v - whole) * (REAL)0.693147180559945309417232121458;
    vec p = NAME(fill)(0);
#pragma GCC unroll 16
    for (int i = EXP_TERMS; i >= 1; i--) p = (p + 1) * f * ((REAL)1 / i);
    ivec n = __builtin_convertvector(whole, ivec), half = n >> 1;
    vec first = (vec)((half + BIAS) << MANTISSA), second = (vec)((n - half + BIAS) << MANTISSA);
    return (p + 1) * first * second;
}

/* softplus(z) = max(z, 0) + log1p(u) with u = exp(-|z|) <= 1, and its derivative. The logarithm is
 * 2 artanh(u / (2 + u)), whose series in the square of that, at most 1/9, is cut likewise. */
INLINE vec NAME(softplus)(vec z, vec *sigmoid) {
    vec zero = {0}, size = NAME(pick)(z < 0, -z, z);
    vec u = NAME(exp2)(size * (REAL)-1.44269504088896340735992468100);
    vec s = u / (2 + u), s2 = s * s, series = zero;
#pragma GCC unroll 20
    for (int i = LOG_TERMS; i >= 1; i--) series = (series + (REAL)1 / (2 * i + 1)) * s2;
    if (sigmoid) {
        vec r = 1 / (1 + u);
        *sigmoid = NAME(pick)(z < 0, u * r, r);
    }
    return NAME(pick)(z > 0, z, zero) + 2 * s * (series + 1);
}

/* Step sizes of one vector of channels at row (sample, position, route): bias and dt, or its
 * low-rank factor times the weight, through softplus. */
INLINE vec NAME(step)(const problem *q, int64_t row, int64_t k, int64_t c, int lanes, vec *sigmoid) {
    vec z = NAME(load)(q->bias + k * q->C + c, lanes);
    if (!q->R) return NAME(softplus)(z + NAME(load)(q->dt + row * q->C + c, lanes), sigmoid);
    const REAL *factor = q->dt + row * q->R, *weight = q->weight + k * q->R * q->C + c;
    for (int64_t r = 0; r < q->R; r++) z += factor[r] * NAME(load)(weight + r * q->C, lanes);
    return NAME(softplus)(z, sigmoid);
}

#define LOG2E (REAL)1.44269504088896340735992468100

typedef struct {
    int64_t b, block, c;  /* sample, number of the block, its first channel */
    int vectors;          /* of the block */
} NAME(item);

INLINE NAME(item) NAME(locate)(const problem *q, int64_t index) {
    int64_t width = q->block * LANES, blocks = (q->C + width - 1) / width;
    NAME(item) item = {index / blocks, index % blocks, index % blocks * width, 0};
    int64_t left = (q->C - item.c + LANES - 1) / LANES;
    item.vectors = left < q->block ? left : q->block;
    return item;
}

INLINE int NAME(lanes)(const problem *q, int64_t c) {
    return q->C - c < LANES ? q->C - c : LANES;
}

/* Address of the states (N, C) that route k of sample b has before chunk i, at channel c. */
INLINE REAL *NAME(state)(const problem *q, int64_t i, int64_t k, int64_t b, int64_t c) {
    return q->saved + ((i * q->K + k) * q->batch + b) * q->N * q->C + c;
}

INLINE void NAME(save)(const problem *q, NAME(item) it, int64_t i, int64_t k, const vec *h, int N) {
    REAL *to = NAME(state)(q, i, k, it.b, it.c);
    for (int v = 0; v < it.vectors; v++)
        for (int n = 0; n < N; n++)
            NAME(store)(to + n * q->C + v * LANES, h[v * N + n],
                        NAME(lanes)(q, it.c + v * LANES));
}

INLINE void NAME(forward_item)(const problem *q, NAME(item) it, int N) {
    for (int64_t k = 0; k < q->K; k++) {
        vec h[q->block * N];
        memset(h, 0, sizeof h);
        for (int64_t t = 0; t < q->T; t++) {
            if (t % CHUNK == 0) NAME(save)(q, it, t / CHUNK, k, h, N);
            int64_t p = q->routes[k * q->T + t];
            if (p < 0) continue;
            int64_t position = it.b * q->L + p, row = position * q->K + k;
            const REAL *B = q->B + row * N, *Cm = q->Cm + row * N;
            for (int v = 0; v < it.vectors; v++) {
                int64_t c = it.c + v * LANES;
                int lanes = NAME(lanes)(q, c);
                vec x = NAME(load)(q->x + (q->own_x ? row : position) * q->C + c, lanes);
                vec delta = NAME(step)(q, row, k, c, lanes, NULL), entering = delta * x;
                vec delta2 = delta * LOG2E;
                vec y = NAME(load)(q->D + k * q->C + c, lanes) * x;
                for (int n = 0; n < N; n++) {
                    vec A = NAME(load)(q->A + (k * N + n) * q->C + c, lanes);
                    h[v * N + n] = NAME(exp2)(delta2 * A) * h[v * N + n] + entering * B[n];
                    y += h[v * N + n] * Cm[n];
                }
                NAME(add)(q->y + (q->apart ? row : position) * q->C + c, y, lanes);
            }
        }
        NAME(save)(q, it, (q->T + CHUNK - 1) / CHUNK, k, h, N);
    }
}

/* One chunk of one vector of channels, backwards. w (N) holds the gradient that later steps hand
 * back to the chunk's last state, and becomes that of the state before the chunk. */
INLINE void NAME(backward_chunk)(const problem *q, NAME(item) it, int64_t i, int64_t k, int64_t c,
                                 vec *w, vec *dA, vec *dD, vec *dbias, int N) {
    int lanes = NAME(lanes)(q, c), steps = 0, at[CHUNK];
    vec a[CHUNK][N], h[CHUNK + 1][N], delta[CHUNK], sigmoid[CHUNK], A[N];
    vec D = NAME(load)(q->D + k * q->C + c, lanes);
    for (int n = 0; n < N; n++) {
        h[0][n] = NAME(load)(NAME(state)(q, i, k, it.b, c) + n * q->C, lanes);
        A[n] = NAME(load)(q->A + (k * N + n) * q->C + c, lanes);
    }
    for (int64_t t = i * CHUNK; t < q->T && t < (i + 1) * CHUNK; t++) {
        int64_t p = q->routes[k * q->T + t];
        if (p < 0) continue;
        int64_t position = it.b * q->L + p, row = position * q->K + k;
        vec x = NAME(load)(q->x + (q->own_x ? row : position) * q->C + c, lanes);
        at[steps] = p;
        delta[steps] = NAME(step)(q, row, k, c, lanes, &sigmoid[steps]);
        vec entering = delta[steps] * x, delta2 = delta[steps] * LOG2E;
        for (int n = 0; n < N; n++) {
            a[steps][n] = NAME(exp2)(delta2 * A[n]);
            h[steps + 1][n] = a[steps][n] * h[steps][n] + entering * q->B[row * N + n];
        }
        steps++;
    }
    for (int s = steps - 1; s >= 0; s--) {
        int64_t position = it.b * q->L + at[s], row = position * q->K + k;
        int64_t x_row = q->own_x ? row : position, y_row = q->apart ? row : position;
        int64_t slot = (it.block * q->batch * q->L * q->K + row) * N;
        vec x = NAME(load)(q->x + x_row * q->C + c, lanes);
        vec dy = NAME(load)(q->dy + y_row * q->C + c, lanes);
        vec entering = delta[s] * x, gB = {0}, ddelta = {0};
        for (int n = 0; n < N; n++) {
            vec g = w[n] + dy * q->Cm[row * N + n], ga = g * a[s][n], gah = ga * h[s][n];
            q->dC[slot + n] += NAME(sum)(h[s + 1][n] * dy);
            q->dB[slot + n] += NAME(sum)(g * entering);
            gB += g * q->B[row * N + n];
            dA[n] += gah * delta[s];
            ddelta += gah * A[n];
            w[n] = ga;
        }
        vec dz = (ddelta + gB * x) * sigmoid[s];
        *dD += dy * x;
        *dbias += dz;
        NAME(add)(q->dx + x_row * q->C + c, gB * delta[s] + D * dy, lanes);
        NAME(add)(q->dz + row * q->C + c, dz, lanes);
    }
}

INLINE void NAME(backward_item)(const problem *q, NAME(item) it, int N) {
    for (int64_t k = 0; k < q->K; k++)
        for (int v = 0; v < it.vectors; v++) {
            int64_t c = it.c + v * LANES, parameter = it.b * q->K + k;
            int lanes = NAME(lanes)(q, c);
            vec w[N], dA[N], dD = {0}, dbias = {0};
            memset(w, 0, sizeof w);
            memset(dA, 0, sizeof dA);
            for (int64_t i = (q->T + CHUNK - 1) / CHUNK - 1; i >= 0; i--)
                NAME(backward_chunk)(q, it, i, k, c, w, dA, &dD, &dbias, N);
            NAME(store)(q->dD + parameter * q->C + c, dD, lanes);
            NAME(store)(q->dbias + parameter * q->C + c, dbias, lanes);
            for (int n = 0; n < N; n++)
                NAME(store)(q->dA + (parameter * N + n) * q->C + c, dA[n], lanes);
        }
}

/* One state is the common case, and worth code of its own. */
CLONES void NAME(forward)(const problem *q, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
        if (q->N == 1) NAME(forward_item)(q, NAME(locate)(q, i), 1);
        else NAME(forward_item)(q, NAME(locate)(q, i), q->N);
}

CLONES void NAME(backward)(const problem *q, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
        if (q->N == 1) NAME(backward_item)(q, NAME(locate)(q, i), 1);
        else NAME(backward_item)(q, NAME(locate)(q, i), q->N);
}

#undef LOG2E
#undef LANES
#undef vec
#undef ivec
#undef problem
#undef NAME
#endif
