#include "prune/prune.h"

#include <string.h>

int plan_init(prune_plan *p, int n_in, arena *mem)
{
    *p = (prune_plan){.n_in = n_in, .cap_out = n_in, .cap_entry = n_in, .mem = mem};
    if (n_in < 1) return SQ_E_ARG;
    p->start = arena_calloc(mem, (size_t)n_in + 1, sizeof *p->start);
    p->index = arena_calloc(mem, (size_t)n_in, sizeof *p->index);
    p->weight = arena_calloc(mem, (size_t)n_in, sizeof *p->weight);
    return p->start && p->index && p->weight ? SQ_OK : SQ_E_NOMEM;
}

/* Merging policies may need more entries than there are tokens. */
static int grow_entries(prune_plan *p, int n)
{
    if (n <= p->cap_entry - p->n_entry) return SQ_OK;
    if (p->n_entry > INT32_MAX / 2 - n) return SQ_E_LIMIT;
    int cap = 2 * (p->n_entry + n);
    int32_t *index = arena_calloc(p->mem, (size_t)cap, sizeof *index);
    float *weight = arena_calloc(p->mem, (size_t)cap, sizeof *weight);
    if (!index || !weight) return SQ_E_NOMEM;
    memcpy(index, p->index, (size_t)p->n_entry * sizeof *index);
    memcpy(weight, p->weight, (size_t)p->n_entry * sizeof *weight);
    p->index = index;
    p->weight = weight;
    p->cap_entry = cap;
    return SQ_OK;
}

int plan_add_merge(prune_plan *p, const int *index, const float *weight, int n)
{
    if (n < 1) return SQ_E_ARG;
    if (p->n_out >= p->cap_out) return SQ_E_LIMIT;
    for (int i = 0; i < n; i++)
        if (index[i] < 0 || index[i] >= p->n_in) return SQ_E_ARG;
    TRY(grow_entries(p, n));
    for (int i = 0; i < n; i++) {
        p->index[p->n_entry] = index[i];
        p->weight[p->n_entry++] = weight[i];
    }
    p->start[++p->n_out] = p->n_entry;
    return SQ_OK;
}

int plan_add_token(prune_plan *p, int index)
{
    static const float one = 1;
    return plan_add_merge(p, &index, &one, 1);
}

sparse_rows plan_rows(const prune_plan *p)
{
    return (sparse_rows){
        .n_out = p->n_out, .start = p->start, .index = p->index, .weight = p->weight};
}
