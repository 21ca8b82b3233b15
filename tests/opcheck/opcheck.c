/* opcheck [--backend cpu|cuda|emulated] [--device N] [--mask none|avx2|avx512|all]
 *         [--compute f32|bf16|f16] [--slot NAME]... [--threads N] [--self-test | --bench]
 *         [--every N]: of most slots only each N-th case
 *         [--full]: the emulated device leaves no case out
 * Exits 0 when every check passed, 1 when one failed, 2 on a bad argument, 77 when this machine
 * cannot run what was asked for. The last line counts. */
#include "opcheck.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_SKIP = 77 };

/* Multiply-adds of a case on the emulated device: a tenth of a second with its reference. */
static const double EMULATED_MOST = 0.9e8;

const oc_slot oc_slots[] = {
    {"by hand", oc_check_by_hand, true},
    {"patchify", oc_check_patchify},
    {"embed", oc_check_embed},
    {"linear", oc_check_linear},
    {"linear_many", oc_check_linear_many},
    {"linear_gated", oc_check_linear_gated},
    {"layer_norm", oc_check_layer_norm},
    {"rms_norm", oc_check_rms_norm},
    {"rope_append", oc_check_rope_append},
    {"attn", oc_check_attn},
    {"attn_step", oc_check_attn_step},
    {"attn_rows", oc_check_attn_rows},
    {"attn_means", oc_check_attn_means},
    {"silu_mul", oc_check_silu_mul},
    {"activate", oc_check_activate},
    {"add", oc_check_add},
    {"select_rows", oc_check_select_rows},
    {"argmax", oc_check_argmax},
    {"memory", oc_check_memory, true},
    {"convert", oc_check_convert, true},
    {"region", oc_check_region, true},
    {NULL, NULL},
};

typedef struct options {
    backend_options backend;
    uint32_t slots; /* bits by place in oc_slots; 0: all */
    unsigned need;  /* CPU features that the mask asks for */
    bool bench, self_test, full;
    int every;
} options;

static int parse_mask(options *o, const char *text)
{
    if (strcmp(text, "all") == 0) return 0;
    if (cpu_mask_parse(text, &o->backend.cpu_mask)) return 2;
    o->need = o->backend.cpu_mask & ~(unsigned)(SQ_CPU_NOTHING | SQ_CPU_ONEDNN);
    return 0;
}

static int parse_compute(options *o, const char *text)
{
    static const char *const name[] = {"auto", "f32", "bf16", "f16"};
    for (int i = 0; i < 4; i++)
        if (strcmp(text, name[i]) == 0) {
            o->backend.compute = (sq_compute)i;
            return 0;
        }
    return 2;
}

static int parse_number(int *to, const char *text, int least)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < least || n > 4096) return 2;
    *to = (int)n;
    return 0;
}

static int parse_slot(options *o, const char *text)
{
    for (int i = 0; oc_slots[i].name; i++)
        if (strcmp(oc_slots[i].name, text) == 0) {
            o->slots |= 1u << i;
            return 0;
        }
    return 2;
}

static int parse(options *o, int argc, char **argv)
{
    *o = (options){.backend = {.name = "cpu", .compute = SQ_COMPUTE_F32}};
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        int rc = 0;
        bool *alone = strcmp(flag, "--bench") == 0       ? &o->bench
                      : strcmp(flag, "--self-test") == 0 ? &o->self_test
                      : strcmp(flag, "--full") == 0      ? &o->full
                                                         : NULL;
        if (alone) {
            *alone = true;
            continue;
        }
        if (strcmp(flag, "--mask") == 0)
            rc = parse_mask(o, value);
        else if (strcmp(flag, "--compute") == 0)
            rc = parse_compute(o, value);
        else if (strcmp(flag, "--slot") == 0)
            rc = parse_slot(o, value);
        else if (strcmp(flag, "--backend") == 0)
            o->backend.name = value;
        else if (strcmp(flag, "--threads") == 0)
            rc = parse_number(&o->backend.n_threads, value, 1);
        else if (strcmp(flag, "--every") == 0)
            rc = parse_number(&o->every, value, 1);
        else if (strcmp(flag, "--device") == 0)
            rc = parse_number(&o->backend.device, value, 0);
        else
            rc = 2;
        if (rc) {
            fprintf(stderr, "opcheck: %s %s: not understood\n", flag, value);
            return rc;
        }
        i++;
    }
    if (!o->bench || strcmp(o->backend.name, "emulated") != 0) return 0;
    fprintf(stderr, "opcheck: --bench has nothing to time on an emulated device\n");
    return 2;
}

static void run_slots(oc_run *r, const options *o)
{
    for (int i = 0; oc_slots[i].name; i++) {
        if (o->slots && !(o->slots >> i & 1)) continue;
        r->seed = 1;
        r->every = oc_slots[i].whole ? 0 : o->every;
        oc_slots[i].check(r);
    }
}

static void print_table(const oc_run *r)
{
    printf("%-17s %8s %6s %8s %8s %10s %10s %9s\n", "slot", "checks", "failed", "rel. L2", "max",
           "L2 used", "max used", "of allowed");
    for (int i = 0; i < oc_tolerance_count(); i++) {
        const oc_slot_count *c = &r->count[i];
        const oc_tolerance *t = oc_tolerance_row(i);
        if (c->checks)
            printf("%-17s %8ld %6ld %8.1g %8.1g %8.0f %% %8.0f %%  %s\n", t->slot, c->checks,
                   c->failed, t->rel_l2, t->max, 100 * c->worst_l2, 100 * c->worst_max, t->why);
    }
}

static void run_prepare(oc_run *r, const options *o)
{
    r->act = r->be->act;
    r->unit = oc_unit(r->act);
    r->bf16 = r->be->compute == SQ_COMPUTE_BF16 && r->act == SQ_DTYPE_F32;
    r->ops = r->be->ops;
    r->region = r->be->region;
    ops_init_ref(&r->ref);
    if (strcmp(r->be->name, "emulated") == 0 && !o->full) r->most = EMULATED_MOST;
}

static int run_all(oc_run *r, const options *o)
{
    printf("%s\n", r->be->describe);
    if (o->self_test) {
        oc_self_test(r);
    } else {
        run_slots(r, o);
        print_table(r);
    }
    if (o->every > 1) printf("of most slots only every %d. case\n", o->every);
    if (r->left_out)
        printf("%d cases of more than %.0f million multiply-adds left out: a device runs them\n",
               r->left_out, r->most / 1e6);
    printf("%ld checks, %ld failed\n", r->checks, r->failed);
    return r->failed || !r->checks ? 1 : 0;
}

/* True when this machine lacks what was asked for: there is no such device, or the CPU cannot
 * compute so. A device that is there and does not start is no reason to skip. */
static bool is_absent(const backend_options *o, int rc)
{
    sq_error why = {0};
    backend_device found = {.err = {0}};
    if (rc != SQ_E_BACKEND) return false;
    if (!strstr(o->name, "cuda") || backend_cuda.probe(&why)) return true;
    return backend_cuda.device(o->device, &found) == SQ_OK && found.err.code;
}

static int open_backends(oc_run *r, const options *o)
{
    sq_error err = {0};
    backend_options plain = {
        .name = "cpu", .n_threads = 1, .compute = SQ_COMPUTE_F32, .cpu_mask = SQ_CPU_NOTHING};
    bool emulated = strcmp(o->backend.name, "emulated") == 0;
    int rc = (emulated ? oc_emulated_open : backend_open)(&r->be, &o->backend, &err);
    bool skip = is_absent(&o->backend, rc);
    if (!rc) rc = backend_open(&r->ref_be, &plain, &err);
    if (!rc) return 0;
    printf("%s: %s\n", skip ? "skipped" : "FAILED", err.text);
    return skip ? EXIT_SKIP : 1;
}

int main(int argc, char **argv)
{
    static oc_run r;
    options o;
    int rc = parse(&o, argc, argv);
    if (rc) return rc;
    if ((cpu_detect() & o.need) != o.need) {
        printf("skipped: this CPU lacks what the mask asks for\n");
        return EXIT_SKIP;
    }
    rc = open_backends(&r, &o);
    if (!rc) {
        run_prepare(&r, &o);
        rc = !o.bench ? run_all(&r, &o) : r.be->resident ? oc_bench_device(&r) : oc_bench(&r);
        if (r.pool) r.be->memory.free(r.be->memory.user, r.pool);
    }
    backend_close(&r.be);
    backend_close(&r.ref_be);
    return rc;
}
