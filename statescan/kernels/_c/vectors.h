/* Vectors of LANES reals: memory, exponential and softplus. */

#define ivec NAME(ivec)
#define small NAME(small)
#define LOG2E (REAL)1.44269504088896340735992468100

typedef REAL vec __attribute__((vector_size(VECTOR)));
typedef INTEGER ivec __attribute__((vector_size(VECTOR)));
typedef REAL small __attribute__((vector_size(16)));

/* The last lanes of a row may lie beyond its end: they are read as zeros and not written. */
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

/* Sums over the lanes of each vector: folded to 16 bytes first, so that the rest is done for many
 * vectors at once. */
INLINE void NAME(sums)(const vec *of, int count, REAL *out) {
    const int left = 16 / sizeof(REAL);
    REAL folded[count][left];
    for (int s = 0; s < count; s++) {
        small parts[VECTOR / 16];
        memcpy(parts, of + s, sizeof parts);
        for (int width = VECTOR / 32; width; width /= 2)
            for (int i = 0; i < width; i++) parts[i] += parts[i + width];
        memcpy(folded[s], parts, sizeof *parts);
    }
    for (int s = 0; s < count; s++) {
        out[s] = folded[s][0];
        for (int i = 1; i < left; i++) out[s] += folded[s][i];
    }
}

INLINE vec NAME(fill)(REAL value) { return value - (vec){0}; }

INLINE vec NAME(pick)(ivec where, vec yes, vec no) {
    return (vec)((where & (ivec)yes) | (~where & (ivec)no));
}

INLINE vec NAME(size)(vec v) {
    return (vec)((ivec)v & ~((INTEGER)1 << (8 * sizeof(REAL) - 1)));
}

/* 2^v: v is split into the nearest integer, added to the exponent, and a rest in [-1/2, 1/2].
 * Adding 1.5 * 2^MANTISSA rounds, and leaves the integer in the low bits. v may not be above LIMIT;
 * results below the smallest normal number become it. */
INLINE vec NAME(exp2_below)(vec v) {
    static const REAL terms[] = EXP2_TERMS;
    const int degree = sizeof terms / sizeof *terms - 1;
    const REAL shift = (REAL)1.5 * ((INTEGER)1 << MANTISSA);
    vec low = NAME(fill)(2 - LIMIT);
    v = NAME(pick)(v < low, low, v);
    vec whole = v + shift, f = v - (whole - shift), p = NAME(fill)(terms[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; i--) p = p * f + terms[i];
    return (vec)((ivec)p + ((ivec)whole << MANTISSA));
}

/* 2^v, infinity where that is beyond the largest number. */
INLINE vec NAME(exp2)(vec v) {
    vec high = NAME(fill)(LIMIT);
    return NAME(exp2_below)(NAME(pick)(v > high, high, v));
}

/* softplus(z) = max(z, 0) + log1p(u) with u = exp(-|z|) <= 1, and its derivative where asked for.
 * log1p(u) = 2 atanh(s) with s = u / (2 + u) <= 1/3. */
INLINE vec NAME(softplus)(vec z, vec *sigmoid) {
    static const REAL terms[] = ATANH_TERMS;
    const int degree = sizeof terms / sizeof *terms - 1;
    vec u = NAME(exp2_below)(NAME(size)(z) * -LOG2E), s;
    if (sigmoid) { /* one division for both quotients */
        vec quotient = 1 / ((1 + u) * (2 + u));
        *sigmoid = NAME(pick)(z < 0, u, NAME(fill)(1)) * ((2 + u) * quotient);
        s = u * (1 + u) * quotient;
    } else s = u / (2 + u);
    vec s2 = s * s, p = NAME(fill)(terms[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; i--) p = p * s2 + terms[i];
    return NAME(pick)(z > 0, z, (vec){0}) + 2 * s * (p * s2 + 1);
}

#undef ivec
#undef small
