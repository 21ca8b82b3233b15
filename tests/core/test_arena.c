/* Arenas settle: work that comes again asks its source for memory only the first time. */
#include "core/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct counted {
    int n_alloc, n_live, left; /* left: calls until one fails; 0: none does */
    size_t room;               /* bytes there are; 0: enough */
} counted;

static void *counted_alloc(void *user, size_t size)
{
    counted *c = user;
    if (c->left && --c->left == 0) return NULL;
    if (c->room && size > c->room) return NULL;
    if (c->room) c->room -= size;
    c->n_alloc++;
    c->n_live++;
    return aligned_alloc(64, size);
}

static void counted_free(void *user, void *p)
{
    counted *c = user;
    c->n_live--;
    free(p);
}

enum { MB = 1 << 20 };

static void fill(void *p, size_t size, int value)
{
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    memset(p, value, size);
}

/* As a pass does it: something that stays for its caller, then layers of scratch. */
static void pass(arena *a, size_t size)
{
    arena_mark all = arena_get_mark(a);
    unsigned char *result = arena_alloc(a, size);
    fill(result, size, 1);
    arena_mark inner = arena_get_mark(a);
    fill(arena_alloc(a, 3 * size), 3 * size, 2);
    fill(arena_alloc(a, 100), 100, 3);
    arena_mark last = arena_get_mark(a);
    fill(arena_alloc(a, 2 * size), 2 * size, 4);
    arena_rewind(a, last);
    arena_rewind(a, inner);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(result[i], 1);
    arena_rewind(a, all);
    assert_int_equal(a->in_use, 0);
}

static void repeated_passes_ask_for_nothing(void **state)
{
    (void)state;
    static const size_t sizes[] = {1000, MB / 2, 3 * MB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        counted c = {0};
        arena_source source = {counted_alloc, counted_free, &c};
        arena a = {.source = &source};
        pass(&a, sizes[i]);
        pass(&a, sizes[i]);
        int n = c.n_alloc;
        for (int k = 0; k < 5; k++) {
            pass(&a, sizes[i]);
            pass(&a, sizes[i] / 2);
        }
        assert_int_equal(c.n_alloc, n);
        assert_int_equal(c.n_live, 1);
        arena_close(&a);
        assert_int_equal(c.n_live, 0);
    }
}

/* What lies below a mark stays where it is, whatever came and went above. */
static void kept_data_stays(void **state)
{
    (void)state;
    counted c = {0};
    arena_source source = {counted_alloc, counted_free, &c};
    arena a = {.source = &source};
    unsigned char *kept = arena_alloc(&a, MB);
    fill(kept, MB, 7);
    arena_mark mark = arena_get_mark(&a);
    for (int k = 1; k < 6; k++) {
        fill(arena_alloc(&a, (size_t)k * MB), (size_t)k * MB, k);
        fill(arena_alloc(&a, MB), MB, k);
        arena_rewind(&a, mark);
        for (size_t i = 0; i < MB; i++)
            assert_int_equal(kept[i], 7);
    }
    arena_close(&a);
    assert_int_equal(c.n_live, 0);
}

static void failures_leave_it_usable(void **state)
{
    (void)state;
    for (int k = 1; k < 4; k++) {
        counted c = {.left = k};
        arena_source source = {counted_alloc, counted_free, &c};
        arena a = {.source = &source};
        arena_mark start = arena_get_mark(&a);
        int n_null = 0;
        for (int i = 0; i < 4; i++)
            n_null += arena_alloc(&a, 2 * MB) == NULL;
        assert_int_equal(n_null, 1);
        arena_rewind(&a, start);
        pass(&a, 2 * MB);
        arena_close(&a);
        assert_int_equal(c.n_live, 0);
    }
    arena a = {0};
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 64));
    assert_null(arena_calloc(&a, SIZE_MAX / 2, 3));
    arena_close(&a);
}

/* Where no block of the usual size is left, one that just fits may be. */
static void the_last_room_is_used(void **state)
{
    (void)state;
    counted c = {.room = 10 * MB};
    arena_source source = {counted_alloc, counted_free, &c};
    arena a = {.source = &source};
    assert_non_null(arena_alloc(&a, 6 * MB));
    assert_non_null(arena_alloc(&a, MB));
    assert_null(arena_alloc(&a, 4 * MB));
    arena_close(&a);
    assert_int_equal(c.n_live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repeated_passes_ask_for_nothing),
        cmocka_unit_test(kept_data_stays),
        cmocka_unit_test(failures_leave_it_usable),
        cmocka_unit_test(the_last_room_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
