/* Polynomials of least relative error: 2^f for f in [-1/2, 1/2], to 2e-9; and
 * (atanh(s)/s - 1)/s^2 in powers of s^2 for s in [0, 1/3], to 2e-8. */
#define TYPE f32
#define REAL float
#define INTEGER int32_t
#define MANTISSA 23
#define LIMIT 128
#define EXP2_TERMS                                                                             \
    {1.0f, 0.69314720670f, 0.24022650922f, 0.055503272267f, 0.0096180566785f, 0.0013400428178f, \
     0.00015461444686f}
#define ATANH_TERMS {0.33333320168f, 0.20003780322f, 0.14118309903f, 0.13425749011f}
#include "kernels.h"
#undef TYPE
#undef REAL
#undef INTEGER
#undef MANTISSA
#undef LIMIT
#undef EXP2_TERMS
#undef ATANH_TERMS
