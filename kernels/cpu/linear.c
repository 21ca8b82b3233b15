#include "kernels/cpu/cpu.h"

#include <string.h>

int cpu_linear_open(sq_backend *be, size_t pack_limit, sq_error *err)
{
    (void)pack_limit;
    if (be->compute == SQ_COMPUTE_BF16)
        return error_set(err, SQ_E_BACKEND, "compute bf16: this build has f32 products only");
    be->compute = SQ_COMPUTE_F32;
    be->ops.linear = linear_ref;
    strncat(be->describe, ", f32", sizeof be->describe - strlen(be->describe) - 1);
    return SQ_OK;
}

void cpu_linear_close(sq_backend *be)
{
    (void)be;
}
