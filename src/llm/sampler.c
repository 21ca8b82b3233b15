#include "llm/sampler.h"

#include "core/rng.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct candidate {
    float value; /* logit, then unnormalised probability */
    int32_t id;
} candidate;

void sampler_seed(sampler *s, uint64_t seed)
{
    s->state = seed;
}

static int settings_check(const sampler *s, sq_error *err)
{
    if (!(s->temperature >= 0) || isinf(s->temperature))
        return error_set(err, SQ_E_ARG, "sampler: temperature: expected 0 or more, found %g",
                         (double)s->temperature);
    if (s->top_k < 0)
        return error_set(err, SQ_E_ARG, "sampler: top-k: expected 0 or more, found %d", s->top_k);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return error_set(err, SQ_E_ARG, "sampler: top-p: expected above 0 to 1, found %g",
                         (double)s->top_p);
    return SQ_OK;
}

/* The largest logit, lowest id first, and its distance from the next. */
static int find_best(const float *logits, int n, int32_t *best, float *gap, sq_error *err)
{
    int32_t at = 0;
    float second = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (isnan(logits[i])) return error_set(err, SQ_E_FORMAT, "logits: id %d: found NaN", i);
        if (i > 0 && logits[i] > logits[at]) {
            second = logits[at];
            at = i;
        } else if (i > 0 && logits[i] > second) {
            second = logits[i];
        }
    }
    if (n < 1 || isinf(logits[at]))
        return error_set(err, SQ_E_FORMAT, "logits: expected a finite largest logit");
    *best = at;
    if (gap) *gap = isinf(second) ? FLT_MAX : logits[at] - second;
    return SQ_OK;
}

static int candidate_compare(const void *pa, const void *pb)
{
    const candidate *a = pa, *b = pb;
    if (a->value != b->value) return a->value > b->value ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* How many of the sorted candidates pass top-k, the k-th one's equals included. */
static int cut_top_k(const candidate *c, int n, int k)
{
    if (k <= 0 || k >= n) return n;
    int end = k;
    while (end < n && c[end].value == c[k - 1].value)
        end++;
    return end;
}

/* Turns logits into exp((logit - largest) / temperature); returns the sum. */
static double weigh(candidate *c, int n, float largest, float temperature)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        c[i].value = (float)exp(((double)c[i].value - largest) / temperature);
        sum += c[i].value;
    }
    return sum;
}

/* How many pass top-p; *sum becomes that of those that do. */
static int cut_top_p(const candidate *c, int n, float top_p, double *sum)
{
    if (top_p >= 1) return n;
    double limit = top_p * *sum, before = 0;
    int end = 0;
    while (end < n && (end == 0 || before < limit))
        before += c[end++].value;
    *sum = before;
    return end;
}

static int32_t draw(const candidate *c, int n, double sum, uint64_t *state)
{
    double at = rng_unit(state) * sum;
    int last = 0; /* rounding may leave `at` past the end: then the last that has a chance */
    for (int i = 0; i < n; i++) {
        if (c[i].value > 0) last = i;
        at -= c[i].value;
        if (at < 0 && c[i].value > 0) return c[i].id;
    }
    return c[last].id;
}

int sampler_pick(sampler *s, const float *logits, int n, arena *scratch, int32_t *id, float *gap,
                 sq_error *err)
{
    int32_t best = 0;
    TRY(settings_check(s, err));
    TRY(find_best(logits, n, &best, gap, err));
    *id = best;
    if (s->temperature == 0) return SQ_OK;

    candidate *c = arena_calloc(scratch, (size_t)n, sizeof *c);
    if (!c) return error_set(err, SQ_E_NOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        c[i] = (candidate){logits[i], i};
    bool sorted = s->top_k > 0 || s->top_p < 1;
    if (sorted) qsort(c, (size_t)n, sizeof *c, candidate_compare);
    n = cut_top_k(c, n, s->top_k);
    double sum = weigh(c, n, logits[best], s->temperature);
    n = cut_top_p(c, n, s->top_p, &sum);
    *id = draw(c, n, sum, &s->state);
    return SQ_OK;
}

int sampler_accept(const sampler *s, int32_t best, float gap, sq_error *err)
{
    TRY(settings_check(s, err));
    if (best < 0) return error_set(err, SQ_E_FORMAT, "logits: found NaN");
    if (!isfinite(gap))
        return error_set(err, SQ_E_FORMAT, "logits: expected finite largest logits");
    return SQ_OK;
}
