/* Overrides for avx512 land here, slot by slot. */
#include "kernels/cpu/cpu.h"

void ops_init_avx512(sq_ops *ops)
{
    (void)ops;
}
