/* What this processor and operating system can run. */
#define _GNU_SOURCE
#include "kernels/backend.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned long long xgetbv0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (unsigned long long)hi << 32 | lo;
}

/* Linux hands out the AMX tile state only on request (arch_prctl ARCH_REQ_XCOMP_PERM, 18). */
static int amx_permitted(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

unsigned cpu_detect(void)
{
    unsigned a, b, c, d, flags = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    unsigned need = bit_FMA | bit_AVX | bit_F16C | bit_OSXSAVE;
    if ((c & need) != need || (xgetbv0() & 6) != 6) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return 0;
    flags |= SQ_CPU_AVX2;
    unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((b & avx512) != avx512 || (xgetbv0() & 0xe6) != 0xe6) return flags;
    flags |= SQ_CPU_AVX512;
    if (c & bit_AVX512VNNI) flags |= SQ_CPU_VNNI;
    enum { AMX_BF16_BIT = 1 << 22, AMX_TILE_BIT = 1 << 24, AVX512_BF16_BIT = 1 << 5 };
    bool amx = (d & AMX_BF16_BIT) && (d & AMX_TILE_BIT);
    if (amx && (xgetbv0() & 0x60000) == 0x60000 && amx_permitted()) flags |= SQ_CPU_AMX_BF16;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX512_BF16_BIT))
        flags |= SQ_CPU_AVX512_BF16;
    return flags;
}
#elif defined(__aarch64__)
unsigned cpu_detect(void)
{
    return SQ_CPU_NEON;
}
#else
unsigned cpu_detect(void)
{
    return 0;
}
#endif

static const struct {
    const char *name;
    unsigned flag;
    unsigned level; /* everything that --cpu NAME allows */
} cpu_names[] = {
    {"avx2", SQ_CPU_AVX2, SQ_CPU_AVX2},
    {"avx512", SQ_CPU_AVX512, SQ_CPU_AVX2 | SQ_CPU_AVX512},
    {"vnni", SQ_CPU_VNNI, SQ_CPU_AVX2 | SQ_CPU_AVX512 | SQ_CPU_VNNI},
    {"avx512-bf16", SQ_CPU_AVX512_BF16,
     SQ_CPU_AVX2 | SQ_CPU_AVX512 | SQ_CPU_VNNI | SQ_CPU_AVX512_BF16},
    {"amx-bf16", SQ_CPU_AMX_BF16,
     SQ_CPU_AVX2 | SQ_CPU_AVX512 | SQ_CPU_VNNI | SQ_CPU_AVX512_BF16 | SQ_CPU_AMX_BF16},
    {"neon", SQ_CPU_NEON, SQ_CPU_NEON},
};
enum { N_CPU_NAMES = sizeof cpu_names / sizeof *cpu_names };

void cpu_flag_names(unsigned flags, char *out, size_t size)
{
    size_t used = 0;
    if (size) out[0] = 0;
    for (int i = 0; i < N_CPU_NAMES; i++) {
        if (!(flags & cpu_names[i].flag)) continue;
        int n = snprintf(out + used, size - used, "%s%s", used ? " " : "", cpu_names[i].name);
        if (n < 0 || (size_t)n >= size - used) return;
        used += (size_t)n;
    }
    if (!used) snprintf(out, size, "plain C");
}

int cpu_mask_parse(const char *text, unsigned *mask)
{
    if (strcmp(text, "none") == 0) {
        *mask = SQ_CPU_NOTHING;
        return SQ_OK;
    }
    for (int i = 0; i < N_CPU_NAMES; i++)
        if (strcmp(text, cpu_names[i].name) == 0) {
            *mask = cpu_names[i].level | SQ_CPU_ONEDNN;
            return SQ_OK;
        }
    return SQ_E_ARG;
}
