/* The engine on a device that is none (tests/opcheck/opcheck_emulated.c): uploaded weights, 16-bit
 * activations, memory that the host cannot follow, and a device that runs out of memory or fails
 * at any moment. */
#include "opcheck/opcheck.h"
#include "squint_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TINY SQ_SOURCE_DIR "/tests/golden/tiny/"

typedef struct failing {
    arena_source memory;
    void (*write)(sq_backend *be, void *dst, const void *src, size_t size);
    int until_alloc; /* 1: memory is out; k: after k - 1 calls; 0: never */
    int until_write; /* calls before one fails; 0: none does */
    int n_live;
} failing;

static failing fail;

static void *failing_alloc(void *user, size_t size)
{
    if (fail.until_alloc == 1) return NULL;
    fail.until_alloc -= fail.until_alloc > 1;
    void *p = fail.memory.alloc(user, size);
    fail.n_live += p != NULL;
    return p;
}

static void counting_free(void *user, void *p)
{
    fail.n_live -= p != NULL;
    fail.memory.free(user, p);
}

static void failing_write(sq_backend *be, void *dst, const void *src, size_t size)
{
    if (fail.until_write && --fail.until_write == 0)
        error_set(&be->err, SQ_E_BACKEND, "emulated: write: the device is lost");
    else if (!be->err.code)
        fail.write(be, dst, src, size);
    be->count.launches++; /* something to count */
}

/* compute AUTO: the CPU's plain C instead, whose f32 the emulated one shares. */
static sq_model *open_on(const char *path, sq_compute compute)
{
    sq_model *m;
    sq_error err = {0};
    const sq_model_options o = {
        .backend = "cpu", .compute = "f32", .cpu = compute ? NULL : "none", .n_threads = 1};
    if (sq_model_open(&m, path, &o)) fail_msg("%s: %s", path, sq_model_error(m));
    if (!compute) return m;
    backend_close(&m->be);
    const backend_options b = {.compute = compute};
    if (oc_emulated_open(&m->be, &b, &err)) fail_msg("%s", err.text);
    fail = (failing){.memory = m->be->memory, .write = m->be->write};
    m->be->memory.alloc = failing_alloc;
    m->be->memory.free = counting_free;
    m->be->write = failing_write;
    return m;
}

static void close_all(sq_session **s, sq_model **m)
{
    sq_session_close(s);
    sq_model_close(m);
    assert_int_equal(fail.n_live, 0); /* nothing leaks, whatever happened */
}

typedef struct answers {
    char text[2][256];
    int32_t kept[8];
} answers;

/* Two questions about a picture; the first failure ends it. */
static int run_session(sq_session **s, sq_model *m, const char *picture, const char *keep,
                       answers *a)
{
    static sq_report r;
    const sq_session_options o = {.prune = "fastervlm", .keep = keep, .n_ctx = 1000};
    const sq_ask_options ask = {.max_tokens = 10};
    int rc = sq_session_open(s, m, &o);
    if (!rc) rc = sq_session_add_image(*s, picture);
    for (int i = 0; !rc && i < 2; i++) {
        rc = sq_session_ask(*s, i ? "Is there a frog?" : "What do you see?", &ask, &r);
        if (rc) break;
        snprintf(a->text[i], sizeof a->text[i], "%s", r.answer);
        assert_int_equal(r.image[0].tokens_kept, atoi(keep)); /* never CLS */
        for (int k = 0; k < r.image[0].tokens_kept && k < 8; k++)
            a->kept[k] = r.image[0].kept[k];
    }
    return rc;
}

static answers answers_on(const char *path, sq_compute compute, const char *picture,
                          const char *keep)
{
    answers a = {0};
    sq_session *s;
    fail = (failing){0};
    sq_model *m = open_on(path, compute);
    if (run_session(&s, m, picture, keep, &a)) fail_msg("%s: %s", path, sq_session_error(s));
    close_all(&s, &m);
    return a;
}

/* In f32 the device is the CPU's plain C behind another memory. */
static void f32_is_the_cpu(void **state)
{
    (void)state;
    static const char *const names[] = {"mha",   "gelu", "full",    "linear",   "llama3", "gqa",
                                        "tied",  "next", "mistral", "qwen2",    "layers", "names5"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, TINY "%s", names[i]);
        answers want = answers_on(path, SQ_COMPUTE_AUTO, TINY "picture.png", "5");
        answers got = answers_on(path, SQ_COMPUTE_F32, TINY "picture.png", "5");
        assert_string_equal(got.text[0], want.text[0]);
        assert_memory_equal(&got, &want, sizeof got);
    }
}

#ifndef __SANITIZE_ADDRESS__
/* bf16 on the demo model: its Q8_0 file is expanded, and it still sees what it saw. */
static void bf16_sees_the_same(void **state)
{
    (void)state;
    const char *path = SQ_SOURCE_DIR "/models/demo", *picture = SQ_SOURCE_DIR "/samples/frogs.jpg";
    sq_session *s;
    sq_model *m;
    answers want = {0};
    const sq_model_options o = {.backend = "cpu", .compute = "f32", .n_threads = 2};
    if (sq_model_open(&m, path, &o)) fail_msg("%s", sq_model_error(m));
    if (run_session(&s, m, picture, "8", &want)) fail_msg("%s", sq_session_error(s));
    sq_session_close(&s);
    sq_model_close(&m);
    answers got = answers_on(path, SQ_COMPUTE_BF16, picture, "8");
    assert_string_equal(got.text[0], want.text[0]);
    assert_string_equal(got.text[1], want.text[1]);
    assert_memory_equal(got.kept, want.kept, sizeof got.kept);
}
#endif

/* Memory runs out, at every possible moment: an error that says so. When there is some again the
 * same model answers as ever. */
static void memory_may_run_out_anywhere(void **state)
{
    (void)state;
    answers want = answers_on(TINY "mha", SQ_COMPUTE_BF16, TINY "picture.png", "5");
    int k = 1;
    for (bool failed = true; failed; k++) {
        answers got = {0};
        sq_session *s;
        sq_model *m = open_on(TINY "mha", SQ_COMPUTE_BF16);
        fail.until_alloc = k;
        int rc = run_session(&s, m, TINY "picture.png", "5", &got);
        failed = rc != SQ_OK;
        if (failed) assert_int_equal(rc, SQ_E_NOMEM);
        if (failed && !strstr(sq_session_error(s), "memory") &&
            !strstr(sq_session_error(s), "no room"))
            fail_msg("call %d: \"%s\"", k, sq_session_error(s));
        sq_session_close(&s);
        fail.until_alloc = 0;
        memset(&got, 0, sizeof got);
        if (run_session(&s, m, TINY "picture.png", "5", &got))
            fail_msg("after call %d: %s", k, sq_session_error(s));
        assert_memory_equal(&got, &want, sizeof got);
        close_all(&s, &m);
    }
    assert_true(k > 8); /* weights, caches, passes, pictures */
}

/* A copy of the weights that breaks off leaves a model that says so every time. */
static void a_broken_upload_is_never_used(void **state)
{
    (void)state;
    for (int k = 1; k < 60; k += 9) {
        answers got;
        sq_session *s;
        sq_model *m = open_on(TINY "mha", SQ_COMPUTE_BF16);
        fail.until_write = k;
        for (int again = 0; again < 3; again++) {
            assert_int_equal(run_session(&s, m, TINY "picture.png", "5", &got), SQ_E_BACKEND);
            assert_string_equal(sq_session_error(s), "emulated: write: the device is lost");
            sq_session_close(&s);
        }
        close_all(&s, &m);
    }
}

static sq_report ask_once(sq_session *s)
{
    sq_report r;
    const sq_ask_options ask = {.max_tokens = 4};
    if (sq_session_ask(s, "hello", &ask, &r)) fail_msg("%s", sq_session_error(s));
    return r;
}

/* A report tells of its own answer and the pictures before it: not of other sessions, of pictures
 * that failed or of the answer before. */
static void reports_count_their_own_work(void **state)
{
    (void)state;
    const char *const bad[] = {TINY "picture.png", TINY "picture.png", TINY "missing.png"};
    const sq_session_options o = {.prune = "fastervlm", .keep = "5", .n_ctx = 1000};
    sq_session *first, *other;
    sq_model *m = open_on(TINY "mha", SQ_COMPUTE_F32);
    assert_int_equal(sq_session_open(&first, m, &o), SQ_OK);
    assert_int_equal(sq_session_open(&other, m, &o), SQ_OK);
    int64_t before = m->be->count.launches;
    assert_int_equal(sq_session_add_image(first, bad[0]), SQ_OK);
    sq_report want = ask_once(first);
    assert_int_equal(want.launches, m->be->count.launches - before);
    sq_report second = ask_once(first);
    assert_int_equal(want.launches + second.launches, m->be->count.launches - before);
    assert_true(want.ms.vision > 0 && want.ms.decode > 0 && want.ms.project > 0);
    assert_true(second.ms.vision <= 0 && second.ms.decode <= 0 && second.ms.project <= 0);
    assert_true(second.ms.total >= second.ms.prefill + second.ms.generate);

    int n_live = 0;
    for (int i = 0; i < 4; i++) {
        assert_true(sq_session_add_images(other, bad, 3) < 0);
        if (i < 2) n_live = fail.n_live; /* arenas settle */
        assert_int_equal(fail.n_live, n_live);
        assert_int_equal(other->kept.in_use, 0);
        assert_true(other->report.ms.total <= 0 && other->report.ms.decode <= 0);
    }
    assert_int_equal(sq_session_add_image(other, bad[0]), SQ_OK);
    sq_report got = ask_once(other);
    assert_int_equal(got.launches, want.launches);
    assert_int_equal(got.n_image, 1);
    sq_session_close(&other);
    close_all(&first, &m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_is_the_cpu),
#ifndef __SANITIZE_ADDRESS__ /* half a minute of plain C there */
        cmocka_unit_test(bf16_sees_the_same),
#endif
        cmocka_unit_test(memory_may_run_out_anywhere),
        cmocka_unit_test(a_broken_upload_is_never_used),
        cmocka_unit_test(reports_count_their_own_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
