/* Reference attention: plain loops, sums in double, one query at a time. */
#include "kernels/backend.h"
#include "kernels/cpu/ref/ref.h"

#include <math.h>

/* Memory for n rows of t as f32, which every query looks at; NULL when out of memory. */
static float *rows_room(arena *mem, const sq_tensor *t, int n)
{
    return arena_alloc(mem, (size_t)n * (size_t)t->shape[1] * sizeof(float));
}

static sq_tensor rows_f32(const sq_tensor *t, int64_t first, int n, float *room)
{
    sq_tensor rows = tensor_rows(t, first, n);
    if (t->dtype == SQ_DTYPE_F32) return rows;
    convert_to_f32(room, rows.data, t->dtype, tensor_count(&rows));
    rows.dtype = SQ_DTYPE_F32;
    rows.data = room;
    return rows;
}

/* Keys of one head, packed. */
static int64_t head_size(const attn_desc *d)
{
    return (int64_t)(d->n_kv + 3) / 4 * 4 * d->head_dim;
}

static double *keys_room(arena *mem, const attn_desc *d)
{
    return arena_alloc(mem, (size_t)(d->n_head_kv * head_size(d)) * sizeof(double));
}

/* to[n_head_kv] = the keys of sequence s; room as rows_f32 needs it. */
static void pack_keys(double *to, const sq_tensor *k, int64_t s, const attn_desc *d, float *room)
{
    int64_t dim = d->head_dim, stride = d->n_head_kv * dim;
    sq_tensor rows = rows_f32(k, s * d->n_kv, d->n_kv, room);
    for (int64_t h = 0; h < d->n_head_kv; h++)
        pack_rows(to + h * head_size(d), (const float *)rows.data + h * dim, stride, d->n_kv, dim);
}

static int sequences(const attn_desc *d)
{
    return d->n_seq > 1 ? d->n_seq : 1;
}

/* Keys [*lo, *hi) that query i may see. */
static void visible(const attn_desc *d, int i, int *lo, int *hi)
{
    *lo = 0;
    *hi = d->n_kv;
    if (!d->causal) return;
    *hi = d->q_pos0 + i + 1 < d->n_kv ? d->q_pos0 + i + 1 : d->n_kv;
    if (d->window > 0 && *hi > d->window) *lo = *hi - d->window;
}

/* logit[lo..hi) = scale * q_i k_j for one head; keys outside get -inf. */
static void logits_of(double *logit, const sq_tensor *q, const double *keys, int i, int h,
                      const attn_desc *d)
{
    int lo, hi;
    const double *k = keys + h / (d->n_head / d->n_head_kv) * head_size(d);
    const float *qi = (const float *)q->data + ((int64_t)i * d->n_head + h) * d->head_dim;
    visible(d, i, &lo, &hi);
    for (int j = 0; j < d->n_kv; j++)
        logit[j] = -INFINITY;
    for (int64_t j = lo / 4 * 4; j < hi; j += 4) {
        double sum[4] = {0};
        add_products(sum, (const double(*)[4])(k + j * d->head_dim), qi, d->head_dim);
        for (int64_t e = 0; e < 4; e++)
            if (j + e >= lo && j + e < hi) logit[j + e] = sum[e] * (double)d->scale;
    }
}

static void softmax(double *p, int n)
{
    double max = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++)
        max = p[j] > max ? p[j] : max;
    for (int j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    for (int j = 0; j < n; j++)
        p[j] /= sum;
}

static void attn_sequence(sq_tensor *out, const sq_tensor *q, const double *keys,
                          const sq_tensor *v, const attn_desc *d, double *p, double *sum)
{
    for (int i = 0; i < d->n_q; i++)
        for (int h = 0; h < d->n_head; h++) {
            int hk = h / (d->n_head / d->n_head_kv);
            float *o = (float *)out->data + ((int64_t)i * d->n_head + h) * d->head_dim;
            logits_of(p, q, keys, i, h, d);
            softmax(p, d->n_kv);
            for (int c = 0; c < d->head_dim; c++)
                sum[c] = 0;
            for (int64_t j = 0; j < d->n_kv; j++) {
                const float *vj = (const float *)v->data + (j * d->n_head_kv + hk) * d->head_dim;
                if (p[j] == 0) continue;
                for (int c = 0; c < d->head_dim; c++)
                    sum[c] += p[j] * (double)vj[c];
            }
            for (int c = 0; c < d->head_dim; c++)
                o[c] = (float)sum[c];
        }
}

void attn_ref(sq_backend *be, sq_tensor *out, const sq_tensor *q, const sq_tensor *k,
              const sq_tensor *v, const attn_desc *d)
{
    arena mem = {0};
    double *p = arena_alloc(&mem, (size_t)(d->n_kv + d->head_dim) * sizeof *p);
    double *keys = keys_room(&mem, d);
    float *room = rows_room(&mem, k, d->n_kv); /* k and v have as many columns */
    if (!p || !keys || !room) error_set(&be->err, SQ_E_NOMEM, "attn: out of memory");
    for (int64_t s = 0; p && keys && room && s < sequences(d); s++) {
        sq_tensor ys = tensor_rows(out, s * d->n_q, d->n_q);
        sq_tensor qs = tensor_rows(q, s * d->n_q, d->n_q);
        pack_keys(keys, k, s, d, room);
        sq_tensor vs = rows_f32(v, s * d->n_kv, d->n_kv, room);
        attn_sequence(&ys, &qs, keys, &vs, d, p, p + d->n_kv);
    }
    arena_close(&mem);
}

void attn_step_ref(sq_backend *be, sq_tensor *out, sq_tensor *q, sq_tensor *k, const sq_tensor *v,
                   const kv_step *s, const rope_desc *r, const attn_desc *d)
{
    const int32_t *pos = s->pos->data, *len = s->len->data;
    for (int i = 0; i < s->n_seq; i++) {
        sq_tensor ys = tensor_rows(out, i, 1), qs = tensor_rows(q, i, 1);
        sq_tensor ks = tensor_rows(k, i, 1), vs = tensor_rows(v, i, 1);
        sq_tensor ck = *s->k[i], cv = *s->v[i];
        sq_tensor p = tensor_1d((void *)(size_t)(pos + i), SQ_DTYPE_I32, 1);
        be->ops.rope_append(be, &qs, &ks, &vs, &ck, &cv, len[i], &p, r);
        attn_desc one = {.n_q = 1,
                         .n_kv = len[i] + 1,
                         .n_head = d->n_head,
                         .n_head_kv = d->n_head_kv,
                         .head_dim = d->head_dim,
                         .causal = true,
                         .q_pos0 = len[i],
                         .window = d->window,
                         .scale = d->scale};
        be->ops.attn(be, &ys, &qs, &ck, &cv, &one);
    }
}

void attn_rows_ref(sq_backend *be, sq_tensor *score, const sq_tensor *q, const sq_tensor *k,
                   const int32_t *row, int n_row, bool logits, const attn_desc *d)
{
    arena mem = {0};
    double *p = arena_alloc(&mem, (size_t)d->n_kv * sizeof *p), *keys = keys_room(&mem, d);
    float *to = score->data, *room = rows_room(&mem, k, d->n_kv);
    if (!p || !keys || !room) error_set(&be->err, SQ_E_NOMEM, "attn_rows: out of memory");
    for (int64_t s = 0; p && keys && room && s < sequences(d); s++) {
        sq_tensor qs = tensor_rows(q, s * d->n_q, d->n_q);
        pack_keys(keys, k, s, d, room);
        for (int v = 0; v < n_row * d->n_head; v++) {
            logits_of(p, &qs, keys, row[v / d->n_head], v % d->n_head, d);
            if (!logits) softmax(p, d->n_kv);
            for (int j = 0; j < d->n_kv; j++)
                *to++ = (float)p[j];
        }
    }
    arena_close(&mem);
}

/* col[n] is scratch. */
static void means_sequence(float *received, float *given, const sq_tensor *q, const double *keys,
                           int first, bool logits, const attn_desc *d, double *p, double *col)
{
    int n = d->n_kv, m = n - first;
    for (int j = 0; j < n; j++)
        col[j] = 0;
    for (int i = first; i < n; i++) {
        double row = 0;
        for (int h = 0; h < d->n_head; h++) {
            logits_of(p, q, keys, i, h, d);
            if (!logits) softmax(p, n);
            for (int j = first; j < n; j++) {
                col[j] += p[j];
                row += p[j];
            }
        }
        given[i - first] = (float)(row / d->n_head / m);
    }
    for (int j = first; j < n; j++)
        received[j - first] = (float)(col[j] / d->n_head / m);
}

void attn_means_ref(sq_backend *be, sq_tensor *received, sq_tensor *given, const sq_tensor *q,
                    const sq_tensor *k, int first, bool logits, const attn_desc *d)
{
    int n = d->n_kv, m = n - first;
    arena mem = {0};
    double *p = arena_alloc(&mem, (size_t)n * 2 * sizeof *p), *keys = keys_room(&mem, d);
    float *room = rows_room(&mem, k, n);
    if (!p || !keys || !room) error_set(&be->err, SQ_E_NOMEM, "attn_means: out of memory");
    for (int64_t s = 0; p && keys && room && s < sequences(d); s++) {
        sq_tensor qs = tensor_rows(q, s * n, n);
        pack_keys(keys, k, s, d, room);
        means_sequence((float *)received->data + s * m, (float *)given->data + s * m, &qs, keys,
                       first, logits, d, p, p + n);
    }
    arena_close(&mem);
}
