/* The CPU kernels, in plain C: one shared library that Python opens with ctypes.
 *
 * No headers of torch or Python, so it survives every release of either. Every kernel is compiled
 * for each element type and instruction set below, as `name_f32_avx2` and so on; the caller picks
 * the one that `instruction_set` names. A kernel's work is cut into items that write to memory of
 * their own, and a caller runs items [first, last) on a thread: the results have the same bits for
 * any number of threads.
 *
 * Arithmetic is on vectors (GCC's and Clang's extension) as wide as the instruction set's.
 */

#include <stdint.h>
#include <string.h>

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(name) JOIN(name, TYPE, ISA)
#define INLINE static inline __attribute__((always_inline)) TARGET

#define BLOCK_BYTES 384 /* of channels, that an item works on at most; as in __init__.py */

#define ISA any
#define TARGET
#define VECTOR 16
#include "f32.h"
#include "f64.h"
#undef ISA
#undef TARGET
#undef VECTOR

#ifdef __x86_64__

#define ISA avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR 32
#include "f32.h"
#include "f64.h"
#undef ISA
#undef TARGET
#undef VECTOR

#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define VECTOR 64
#include "f32.h"
#include "f64.h"
#undef ISA
#undef TARGET
#undef VECTOR

#endif

/* A kernel's items, shared out over the threads of an OpenMP team; the two functions are OpenMP's
 * omp_get_thread_num and omp_get_num_threads, handed over so that nothing need be linked. */
typedef struct {
    void (*run)(const void *problem, int64_t first, int64_t last);
    const void *problem;
    int64_t items;
    int (*number)(void), (*threads)(void);
} team;

void run_share(void *p) {
    const team *t = p;
    int64_t number = t->number(), threads = t->threads();
    t->run(t->problem, t->items * number / threads, t->items * (number + 1) / threads);
}

/* The best instruction set of this machine. */
const char *instruction_set(void) {
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "any";
}
