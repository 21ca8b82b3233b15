/* Arena: one lifetime, one free. Blocks grow as needed; nothing is freed singly. */
#ifndef SQ_ARENA_H
#define SQ_ARENA_H

#include <stddef.h>

typedef struct arena_block arena_block;

/* Where blocks come from: host memory by default, device memory for a GPU's activations. */
typedef struct arena_source {
    void *(*alloc)(void *user, size_t size); /* 64-byte aligned, NULL when out */
    void (*free)(void *user, void *p);
    void *user;
} arena_source;

typedef struct arena {
    const arena_source *source; /* NULL: host memory */
    arena_block *head;          /* newest block */
    size_t in_use;              /* bytes handed out since the last reset */
    size_t peak;                /* largest in_use ever */
} arena; /* zero-initialised is valid and empty */

/* size bytes, 64-byte aligned, uninitialised; NULL when memory is out. Size 0 is valid. */
void *arena_alloc(arena *a, size_t size);

/* n * size bytes with overflow check; zeroed. Host memory only, as is arena_strndup. */
void *arena_calloc(arena *a, size_t n, size_t size);

/* Copy of a string of n bytes, 0-terminated. */
char *arena_strndup(arena *a, const char *text, size_t n);

/* Position to return to: everything allocated after the mark is given up by arena_rewind. */
typedef struct arena_mark {
    arena_block *block;
    size_t used, in_use;
} arena_mark;

arena_mark arena_get_mark(const arena *a);
void arena_rewind(arena *a, arena_mark m);

/* Frees all blocks; the arena is empty and usable afterwards. */
void arena_close(arena *a);

#endif
