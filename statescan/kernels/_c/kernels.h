/* Every kernel, for one element type and instruction set. */
#define LANES (VECTOR / (int)sizeof(REAL))
#define BLOCK (BLOCK_BYTES / (int)sizeof(REAL)) /* channels */
#define vec NAME(vec)
#include "vectors.h"
#include "../state_fusion/cpu.h"
#include "../selective_scan/cpu.h"
#undef LANES
#undef BLOCK
#undef vec
