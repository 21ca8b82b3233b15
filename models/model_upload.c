#include "models/model_upload.h"

#include <stdlib.h>

enum {
    UPLOAD_ALIGN = 256,
    UPLOAD_CHUNK = 1 << 24, /* elements */
    ROW_UNIT = 8            /* elements: fast products want rows of whole 16 bytes */
};

/* One walk over the weights measures them, a second one copies them. */
typedef struct uploader {
    sq_backend *be;
    unsigned char *block; /* NULL: only measure */
    size_t used;
    void *raw; /* a chunk in the file's type, on its way to be converted */
    bool no_memory; /* on the host */
} uploader;

static void copy_converted(uploader *u, void *dst, sq_dtype to, const sq_tensor *t)
{
    sq_backend *be = u->be;
    int64_t n = tensor_count(t);
    for (int64_t at = 0; at < n; at += UPLOAD_CHUNK) {
        int64_t part = n - at < UPLOAD_CHUNK ? n - at : UPLOAD_CHUNK;
        const char *from = (const char *)t->data + dtype_row_bytes(t->dtype, at);
        be->write(be, u->raw, from, dtype_row_bytes(t->dtype, part));
        be->convert(be, (char *)dst + dtype_row_bytes(to, at), to, u->raw, t->dtype, part);
    }
}

/* The next place of the block is t's. */
static void put(uploader *u, sq_tensor *t, sq_dtype to)
{
    if (!tensor_is_set(t)) return;
    sq_tensor there = *t;
    there.dtype = to;
    size_t bytes = tensor_bytes(&there);
    if (u->block) {
        there.data = u->block + u->used;
        if (t->dtype == to)
            u->be->write(u->be, there.data, t->data, bytes);
        else
            copy_converted(u, there.data, to, t);
        *t = there;
    }
    u->used += (bytes + UPLOAD_ALIGN - 1) / UPLOAD_ALIGN * UPLOAD_ALIGN;
}

static void put_vectors(uploader *u, sq_tensor *const t[], int n)
{
    for (int i = 0; i < n; i++)
        put(u, t[i], SQ_DTYPE_F32);
}

/* Also the biases of q, k and v: products add them on the way out only in the output's type. */
static void put_matrices(uploader *u, sq_tensor *const t[], int n)
{
    for (int i = 0; i < n; i++)
        put(u, t[i], u->be->act);
}

/* A matrix with zeros behind each row up to a whole number of units. */
static void put_padded(uploader *u, sq_tensor *t)
{
    int64_t in = t->shape[1], wide = (in + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT;
    sq_tensor there = tensor_2d(t->data, SQ_DTYPE_F32, t->shape[0], wide);
    float *rows = NULL;
    if (!tensor_is_set(t) || wide == in) {
        put_matrices(u, &t, 1);
        return;
    }
    if (u->block) {
        there.data = rows = calloc((size_t)t->shape[0], (size_t)wide * sizeof *rows);
        u->no_memory = u->no_memory || !rows;
        for (int64_t i = 0; rows && i < t->shape[0]; i++)
            convert_to_f32(rows + i * wide,
                           (const char *)t->data + dtype_row_bytes(t->dtype, in * i), t->dtype, in);
    }
    put(u, &there, u->be->act);
    if (rows) *t = there;
    free(rows);
}

static void put_vit(uploader *u, vit_model *v)
{
    put_vectors(u, (sq_tensor *[]){&v->class_embd, &v->patch_b, &v->pos_embd, &v->pre_ln_w,
                                   &v->pre_ln_b}, 5);
    put_padded(u, &v->patch_w);
    for (int i = 0; v->layer && i < v->cfg.n_loaded; i++) {
        vit_layer *l = &v->layer[i];
        put_matrices(u, (sq_tensor *[]){&l->q_w, &l->k_w, &l->v_w, &l->o_w, &l->fc1_w, &l->fc2_w},
                     6);
        put_matrices(u, (sq_tensor *[]){&l->q_b, &l->k_b, &l->v_b}, 3);
        put_vectors(u, (sq_tensor *[]){&l->o_b, &l->fc1_b, &l->fc2_b, &l->ln1_w, &l->ln1_b,
                                       &l->ln2_w, &l->ln2_b}, 7);
    }
}

static void put_decoder(uploader *u, decoder_model *d)
{
    bool tied = d->head.data == d->tok_embd.data;
    put_matrices(u, (sq_tensor *[]){&d->tok_embd}, 1);
    if (tied)
        d->head = d->tok_embd;
    else
        put_matrices(u, (sq_tensor *[]){&d->head}, 1);
    put_vectors(u, (sq_tensor *[]){&d->norm}, 1);
    for (int i = 0; d->layer && i < d->cfg.n_layer; i++) {
        decoder_layer *l = &d->layer[i];
        put_matrices(u, (sq_tensor *[]){&l->q_w, &l->k_w, &l->v_w, &l->o_w, &l->gate_w, &l->up_w,
                                        &l->down_w}, 7);
        put_matrices(u, (sq_tensor *[]){&l->q_b, &l->k_b, &l->v_b}, 3);
        put_vectors(u, (sq_tensor *[]){&l->attn_norm, &l->ffn_norm}, 2);
    }
}

static void put_all(uploader *u, model *m)
{
    put_vit(u, &m->vit);
    put_matrices(u, (sq_tensor *[]){&m->proj.fc1_w, &m->proj.fc2_w}, 2);
    put_vectors(u, (sq_tensor *[]){&m->proj.fc1_b, &m->proj.fc2_b, &m->proj.newline}, 3);
    put_decoder(u, &m->dec);
}

int model_upload(model *m, sq_backend *be, void **block, sq_error *err)
{
    if (!be->resident || *block) return SQ_OK;
    arena_source *mem = &be->memory;
    uploader measure = {.be = be}, copy = {.be = be};
    put_all(&measure, m);
    copy.raw = mem->alloc(mem->user, dtype_row_bytes(SQ_DTYPE_F32, UPLOAD_CHUNK));
    copy.block = copy.raw ? mem->alloc(mem->user, measure.used) : NULL;
    if (copy.block) {
        *block = copy.block;
        put_all(&copy, m);
        be->sync(be); /* kernels read weights ahead of the ops before them */
    }
    if (copy.raw) mem->free(mem->user, copy.raw);
    if (be->err.code) return error_set(err, be->err.code, "%s", be->err.text);
    if (copy.no_memory) return error_set(err, SQ_E_NOMEM, "%s: out of memory", m->path);
    if (*block) return SQ_OK;
    return error_set(err, SQ_E_NOMEM, "%s: %s has no room for %.1f GB of weights", m->path,
                     be->name, (double)measure.used / 1e9);
}

void model_unload(sq_backend *be, void **block)
{
    if (*block) be->memory.free(be->memory.user, *block);
    *block = NULL;
}
