/* Sessions through squint.h: several pictures at once, pictures in memory, failures that leave
 * nothing behind, questions asked again. On the bundled demo model. */
#include "squint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SAMPLES SQ_SOURCE_DIR "/samples/"
#define QUESTION "What do you see?"

enum { N_PICTURE = 3, KEEP = 20 };

static const char *const pictures[N_PICTURE] = {SAMPLES "frogs.jpg", SAMPLES "desk.jpg",
                                                SAMPLES "rocket.jpg"};
static sq_model *model;

/* What must not depend on how pictures came in. */
typedef struct outcome {
    char answer[512];
    int n_image, prompt_tokens;
    int32_t kept[N_PICTURE][KEEP];
} outcome;

static int open_model(void **state)
{
    (void)state;
    const sq_model_options o = {.backend = "cpu", .compute = "f32", .n_threads = 2};
    if (!sq_model_open(&model, SQ_SOURCE_DIR "/models/demo", &o)) return 0;
    fprintf(stderr, "%s\n", sq_model_error(model));
    return -1;
}

static int close_model(void **state)
{
    (void)state;
    sq_model_close(&model);
    return 0;
}

static sq_session *open_session(void)
{
    sq_session *s;
    const sq_session_options o = {.prune = "fastervlm", .keep = "20"};
    if (sq_session_open(&s, model, &o)) fail_msg("%s", sq_session_error(s));
    return s;
}

static void ok(sq_session *s, int rc)
{
    if (rc) fail_msg("%s", sq_session_error(s));
}

static outcome ask(sq_session *s)
{
    static sq_report r;
    outcome out = {0};
    const sq_ask_options o = {.max_tokens = 6};
    ok(s, sq_session_ask(s, QUESTION, &o, &r));
    snprintf(out.answer, sizeof out.answer, "%s", r.answer);
    out.n_image = r.n_image;
    out.prompt_tokens = r.prompt_tokens;
    for (int i = 0; i < r.n_image && i < N_PICTURE; i++) {
        assert_int_equal(r.image[i].tokens_kept, KEEP);
        memcpy(out.kept[i], r.image[i].kept, sizeof out.kept[i]);
    }
    assert_int_equal(r.launches, 0); /* that is a GPU's */
    assert_int_equal(r.device_bytes, 0);
    return out;
}

static outcome one_by_one(int n)
{
    sq_session *s = open_session();
    for (int i = 0; i < n; i++)
        ok(s, sq_session_add_image(s, pictures[i]));
    outcome out = ask(s);
    sq_session_close(&s);
    return out;
}

static void same(const outcome *a, const outcome *b)
{
    assert_string_equal(a->answer, b->answer);
    assert_memory_equal(a, b, sizeof *a);
}

static void together_is_one_by_one(void **state)
{
    (void)state;
    outcome want = one_by_one(N_PICTURE);
    sq_session *s = open_session();
    ok(s, sq_session_add_images(s, pictures, N_PICTURE));
    outcome got = ask(s);
    assert_int_equal(got.n_image, N_PICTURE);
    same(&got, &want);
    sq_session_close(&s);
    s = open_session();
    ok(s, sq_session_add_images(s, pictures, 1));
    ok(s, sq_session_add_images(s, pictures + 1, 0));
    ok(s, sq_session_add_images(s, pictures + 1, N_PICTURE - 1));
    got = ask(s);
    same(&got, &want);
    sq_session_close(&s);
}

static void pixels_are_a_picture(void **state)
{
    (void)state;
    outcome want = one_by_one(1);
    sq_session *s = open_session();
    int w, h;
    uint8_t *rgb;
    char text[256];
    assert_int_equal(sq_image_decode(pictures[0], NULL, &w, &h, &rgb, text, sizeof text), SQ_OK);
    assert_int_equal(sq_session_add_rgb(s, 0, h, rgb), SQ_E_ARG);
    assert_int_equal(sq_session_add_rgb(s, w, h, NULL), SQ_E_ARG);
    ok(s, sq_session_add_rgb(s, w, h, rgb));
    free(rgb);
    outcome got = ask(s);
    same(&got, &want);
    sq_session_close(&s);
}

/* The bad one is named, the good ones before it are taken back, and the session goes on. */
static void a_bad_picture_adds_none(void **state)
{
    (void)state;
    outcome want = one_by_one(1);
    static const char *const bad[] = {SAMPLES "README.md", SAMPLES "missing.jpg"};
    for (int at = 0; at < N_PICTURE; at++) {
        const char *path[N_PICTURE] = {pictures[1], pictures[2], pictures[0]};
        path[at] = bad[at % 2];
        sq_session *s = open_session();
        assert_true(sq_session_add_images(s, path, N_PICTURE) < 0);
        assert_non_null(strstr(sq_session_error(s), path[at]));
        ok(s, sq_session_add_image(s, pictures[0]));
        outcome got = ask(s);
        same(&got, &want);
        assert_true(sq_session_add_image(s, pictures[1]) < 0); /* after the first question */
        sq_session_close(&s);
    }
}

static void too_many_are_refused(void **state)
{
    (void)state;
    const char *path[SQ_MAX_IMAGES + 1];
    for (int i = 0; i <= SQ_MAX_IMAGES; i++)
        path[i] = pictures[0];
    sq_session *s = open_session();
    assert_int_equal(sq_session_add_images(s, path, SQ_MAX_IMAGES + 1), SQ_E_LIMIT);
    sq_session_close(&s);
}

/* A rewind forgets the words and keeps the pictures: their rows are not computed again. */
static void a_rewound_session_answers_alike(void **state)
{
    (void)state;
    static sq_report r;
    sq_session *s = open_session();
    ok(s, sq_session_add_images(s, pictures, 1));
    outcome first = ask(s);
    const sq_ask_options o = {.max_tokens = 4};
    ok(s, sq_session_ask(s, "Is there a dog?", &o, &r));
    assert_true(r.cached_tokens > first.prompt_tokens);
    ok(s, sq_session_rewind(s));
    ok(s, sq_session_ask(s, QUESTION, &(sq_ask_options){.max_tokens = 6}, &r));
    assert_string_equal(r.answer, first.answer);
    assert_true(r.cached_tokens >= KEEP);
    assert_int_equal(r.cached_tokens + r.prompt_tokens, first.prompt_tokens);
    sq_session_close(&s);
}

/* Every row of the context is used: with none left over a prompt still has its first word. */
static void the_context_fills_up(void **state)
{
    (void)state;
    static sq_report r;
    int prompt = one_by_one(1).prompt_tokens;
    for (int more = -1; more < 3; more++) {
        sq_session *s;
        const sq_session_options o = {.prune = "fastervlm", .keep = "20", .n_ctx = prompt + more};
        if (sq_session_open(&s, model, &o)) fail_msg("%s", sq_session_error(s));
        ok(s, sq_session_add_image(s, pictures[0]));
        int rc = sq_session_ask(s, QUESTION, NULL, &r);
        if (more < 0) {
            assert_int_equal(rc, SQ_E_LIMIT);
        } else {
            ok(s, rc);
            assert_string_equal(r.stop, "context full");
            assert_int_equal(r.answer_tokens, more + 1);
            assert_int_equal(r.context_tokens, prompt + more);
        }
        sq_session_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(together_is_one_by_one),
        cmocka_unit_test(pixels_are_a_picture),
        cmocka_unit_test(a_bad_picture_adds_none),
        cmocka_unit_test(too_many_are_refused),
        cmocka_unit_test(a_rewound_session_answers_alike),
        cmocka_unit_test(the_context_fills_up),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
