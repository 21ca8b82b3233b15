/* The end of a case: outputs against the reference, canaries, inputs. */
#include "opcheck.h"

#include "kernels/cpu/linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct oc_diff {
    double worst_max, l2; /* as shares of the tolerance */
    int64_t at;           /* the worst element; -1: none over its limit */
    float got, want;
} oc_diff;

/* What rounding to the output's own type adds: unit * |value|, and `least` below its normal range.
 * Where the reference rounded too, the two may fall on both sides of a tie: twice as much. */
typedef struct rounding {
    sq_dtype type;
    double unit, least;
} rounding;

static rounding rounding_of(const oc_buf *b)
{
    sq_dtype t = b->dev.dtype;
    double times = b->host.dtype == t ? 2 : 1;
    return (rounding){t, times * oc_unit(t), times * oc_least(t)};
}

static double row_scale(const float *want, int64_t cols)
{
    double max = 0;
    for (int64_t c = 0; c < cols; c++)
        if (oc_is_finite(want[c]) && fabs((double)want[c]) > max) max = fabs((double)want[c]);
    return max;
}

/* Past 65504 an f16 is infinite: true when `got` may be what became of `want`. */
static bool overflowed(float got, float want, double limit)
{
    bool big = oc_is_finite(want) && fabs((double)want) + limit >= 65520;
    return big && !oc_is_finite(got) && !oc_is_nan(got) && (got > 0) == (want > 0);
}

/* 0 when alike; a share of the limit; INFINITY when the classes differ (NaN, infinity, finite). */
static double element_share(float got, float want, double limit)
{
    if (!oc_is_finite(want)) {
        bool same =
            oc_is_nan(want) ? oc_is_nan(got) : !oc_is_finite(got) && !oc_is_nan(got) && got == want;
        return same ? 0 : INFINITY;
    }
    if (!oc_is_finite(got)) return INFINITY;
    double error = fabs((double)got - (double)want);
    return error == 0 ? 0 : limit > 0 ? error / limit : INFINITY;
}

typedef struct oc_sums {
    double error, all, scales, extra; /* squares */
    int64_t n;                        /* values that are in them */
} oc_sums;

static void compare_one(oc_diff *d, oc_sums *s, const oc_tolerance *tol, const oc_buf *b,
                        rounding round, int64_t i, double scale, float got, float want)
{
    double extra = round.unit * fabs((double)want) + round.least;
    if (b->slack) extra += b->slack[i] * (1 + round.unit);
    double limit = (tol->max * scale + tol->floor) * (1 + round.unit) + extra;
    if (round.type == SQ_DTYPE_F16 && overflowed(got, want, limit)) return;
    double share = element_share(got, want, limit);
    if (share > d->worst_max) *d = (oc_diff){share, d->l2, i, got, want};
    s->n++;
    if (!oc_is_finite(got) || !oc_is_finite(want)) return;
    s->error += ((double)got - (double)want) * ((double)got - (double)want);
    s->all += (double)want * (double)want;
    s->scales += scale * scale;
    s->extra += extra * extra;
}

/* The bits of the reference's value in the output's own type; any NaN for a NaN. */
static void compare_exactly(oc_diff *d, rounding round, int64_t i, float got, float want)
{
    want = oc_round(want, round.type);
    double share = element_share(got, want, 0);
    if (share > d->worst_max) *d = (oc_diff){share, d->l2, i, got, want};
}

static oc_diff compare(const oc_tolerance *tol, const oc_buf *b, const unsigned char *got,
                       const void *expected)
{
    oc_diff d = {.at = -1};
    oc_sums s = {0};
    sq_tensor got_t = b->dev, want_t = b->want;
    got_t.data = (void *)(size_t)got;
    want_t.data = (void *)(size_t)expected;
    float *g = oc_floats(&got_t), *w = oc_floats(&want_t);
    int64_t cols = b->want.shape[1], n = b->want.shape[0] * cols;
    rounding round = rounding_of(b);
    double row = 0;
    for (int64_t i = 0; i < n; i++) {
        if (b->measure == OC_BY_ROW && i % cols == 0) row = row_scale(w + i, cols);
        double scale = b->scale ? b->scale[i] : b->measure == OC_BY_ROW ? row : fabs((double)w[i]);
        if (scale == OC_ANY || (scale == OC_EXACT && memcmp(&g[i], &w[i], sizeof g[i]) == 0))
            continue;
        if (scale == OC_EXACT)
            compare_exactly(&d, round, i, g[i], w[i]);
        else
            compare_one(&d, &s, tol, b, round, i, scale, g[i], w[i]);
    }
    /* Where the values cancel out, a quarter of the error model (all of it for one value). */
    double model = s.n ? tol->max * sqrt(s.scales) / fmin(sqrt((double)s.n), 4) : 0;
    double limit = fmax(tol->rel_l2 * sqrt(s.all), model) + tol->floor * sqrt((double)s.n);
    limit += sqrt(s.extra);
    d.l2 = s.error == 0 ? 0 : limit > 0 ? sqrt(s.error) / limit : INFINITY;
    free(g);
    free(w);
    return d;
}

static void check_output(oc_run *r, const oc_buf *b, const unsigned char *got, const void *other)
{
    oc_diff d = compare(r->tol, b, got, b->want.data);
    if (other) {
        oc_diff e = compare(r->tol, b, got, other);
        if (fmax(e.worst_max, e.l2) < fmax(d.worst_max, d.l2)) d = e;
    }
    oc_slot_count *c = oc_count_of(r);
    if (d.worst_max > c->worst_max) c->worst_max = d.worst_max;
    if (d.l2 > c->worst_l2) c->worst_l2 = d.l2;
    int64_t cols = b->want.shape[1];
    oc_expect(r, d.worst_max <= 1 && d.l2 <= 1,
              "tensor %d row %lld column %lld is %.9g, expected %.9g: %.3g of the allowed error "
              "(rel. L2 %.3g)",
              (int)(b - r->buf), (long long)(d.at / cols), (long long)(d.at % cols), (double)d.got,
              (double)d.want, d.worst_max, d.l2);
}

static void check_buf(oc_run *r, int i, const void *other)
{
    oc_buf *b = &r->buf[i];
    unsigned char *got = oc_alloc(b->size);
    size_t bad = 0, end = b->at + b->bytes;
    r->be->read(r->be, got, b->dev_mem, b->size);
    if (b->output && !b->ignored) check_output(r, b, got + b->at, other);
    for (size_t k = 0; k < b->size && !bad; k = k + 1 == b->at ? end : k + 1)
        if (got[k] != oc_guard_byte(k)) bad = k + 1;
    oc_expect(r, !bad, "canary of tensor %d overwritten %lld bytes from its %s", i,
              bad > end ? (long long)(bad - 1 - end) : (long long)(b->at + 1 - bad),
              bad > end ? "end" : "start");
    if (!b->output)
        oc_expect(r, memcmp(got + b->at, b->host_mem + b->at, b->bytes) == 0,
                  "input tensor %d was changed", i);
    free(got);
}

void oc_forget_weights(oc_run *r)
{
    if (strcmp(r->be->name, "cpu") == 0) cpu_linear_forget(r->be);
}

void oc_end_either(oc_run *r, const oc_buf *out, const float *other)
{
    r->be->sync(r->be);
    oc_expect(r, r->be->err.code == 0, "%s", r->be->err.text);
    error_clear(&r->be->err);
    for (int i = 0; i < r->n_buf; i++)
        check_buf(r, i, &r->buf[i] == out ? other : NULL);
    oc_forget_weights(r);
    oc_release(r);
}

void oc_end(oc_run *r)
{
    oc_end_either(r, NULL, NULL);
}
