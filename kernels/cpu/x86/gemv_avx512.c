#include "kernels/cpu/x86/gemv_body.h"

void gemv_avx512(const linear_job *j, int64_t first, int64_t last)
{
    gemv_rows(j, first, last);
}
