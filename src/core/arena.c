#include "core/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, BLOCK_MIN = 1 << 20 };

struct arena_block {
    arena_block *older;
    size_t size, used; /* payload bytes */
    unsigned char *data;
};

static arena_block *block_new(const arena *a, size_t size)
{
    arena_block *b = malloc(sizeof *b);
    if (!b) return NULL;
    b->data = a->source ? a->source->alloc(a->source->user, size) : aligned_alloc(ALIGN, size);
    if (!b->data) {
        free(b);
        return NULL;
    }
    b->older = NULL;
    b->size = size;
    b->used = 0;
    return b;
}

static void block_free(const arena *a, arena_block *b)
{
    if (a->source)
        a->source->free(a->source->user, b->data);
    else
        free(b->data);
    free(b);
}

void *arena_alloc(arena *a, size_t size)
{
    if (size > SIZE_MAX - 2 * ALIGN) return NULL;
    size = (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (size == 0) size = ALIGN;
    arena_block *b = a->head;
    if (!b || b->size - b->used < size) {
        size_t want = b ? b->size : a->peak > BLOCK_MIN ? a->peak : BLOCK_MIN;
        want = (want + ALIGN - 1) & ~(size_t)(ALIGN - 1);
        arena_block *fresh = block_new(a, size > want ? size : want);
        if (!fresh && size < want) fresh = block_new(a, size); /* a full device may have that */
        if (!fresh) return NULL;
        fresh->older = a->head;
        a->head = b = fresh;
    }
    void *p = b->data + b->used;
    b->used += size;
    a->in_use += size;
    if (a->in_use > a->peak) a->peak = a->in_use;
    return p;
}

void *arena_calloc(arena *a, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size) return NULL;
    void *p = arena_alloc(a, n * size);
    if (p) memset(p, 0, n * size);
    return p;
}

char *arena_strndup(arena *a, const char *text, size_t n)
{
    if (n == SIZE_MAX) return NULL;
    char *p = arena_alloc(a, n + 1);
    if (!p) return NULL;
    memcpy(p, text, n);
    p[n] = 0;
    return p;
}

arena_mark arena_get_mark(const arena *a)
{
    return (arena_mark){a->head, a->head ? a->head->used : 0, a->in_use};
}

static void head_free(arena *a)
{
    arena_block *older = a->head->older;
    block_free(a, a->head);
    a->head = older;
}

void arena_rewind(arena *a, arena_mark m)
{
    while (a->head != m.block && a->head && a->head->older)
        head_free(a);
    if (a->head) a->head->used = m.block ? m.used : 0;
    a->in_use = m.in_use;
    /* Empty, and once too small: the next block holds all that was ever in use. */
    if (a->head && !a->head->older && a->in_use == 0 && a->head->size < a->peak) head_free(a);
}

void arena_close(arena *a)
{
    while (a->head)
        head_free(a);
    a->in_use = 0;
}
