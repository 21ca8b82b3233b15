/* Tokenizers from the arrays of a GGUF file. */
#include "llm/tokenizer_impl.h"

#include <string.h>

static int copy_tokens(tokenizer *t, const tokenizer_vocab *v, const char *name, sq_error *err)
{
    for (int i = 0; i < v->n_token; i++) {
        int type = v->type ? v->type[i] : TOKEN_NORMAL;
        if (type < 0 || type > TOKEN_BYTE)
            return error_set(err, SQ_E_FORMAT, "%s: token %d: type %d: expected 0..%d", name, i,
                             type, TOKEN_BYTE);
        if (type == 0) type = TOKEN_NORMAL;
        TRY(tokenizer_set(t, i, v->text[i], strlen(v->text[i]), v->score ? v->score[i] : 0,
                          (token_type)type, err));
    }
    return SQ_OK;
}

static int copy_merges(tokenizer *t, const tokenizer_vocab *v, const char *name, sq_error *err)
{
    t->merge_text = arena_calloc(&t->mem, (size_t)v->n_merge + 1, sizeof *t->merge_text);
    if (!t->merge_text) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    for (int i = 0; i < v->n_merge; i++) {
        t->merge_text[i] = arena_strndup(&t->mem, v->merge[i], strlen(v->merge[i]));
        if (!t->merge_text[i]) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    }
    return tokenizer_set_merges(t, v->n_merge, name, err);
}

static int check_id(const tokenizer_vocab *v, int id, const char *what, const char *name,
                    sq_error *err)
{
    if (id >= -1 && id < v->n_token) return SQ_OK;
    return error_set(err, SQ_E_FORMAT, "%s: %s id %d is not among the %d tokens", name, what, id,
                     v->n_token);
}

static int build(tokenizer *t, const tokenizer_vocab *v, const char *name, sq_error *err)
{
    bool spm = v->kind == TOKENIZER_SPM;
    TRY(check_id(v, v->bos, "bos", name, err));
    TRY(check_id(v, v->eos, "eos", name, err));
    TRY(check_id(v, v->unk, "unk", name, err));
    TRY(check_id(v, v->pad, "pad", name, err));
    t->v.kind = v->kind;
    t->v.bos = v->bos;
    t->v.eos = v->eos;
    t->v.unk = v->unk;
    t->v.pad = v->pad;
    t->v.add_bos = v->add_bos;
    t->v.add_eos = v->add_eos;
    t->v.add_space_prefix = spm && v->add_space_prefix;
    t->v.space_first_only = spm && v->space_first_only;
    t->v.pre = arena_strndup(&t->mem, v->pre ? v->pre : "default",
                             v->pre ? strlen(v->pre) : strlen("default"));
    if (!t->v.pre) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    t->prefix = !t->v.add_space_prefix   ? SPACE_PREFIX_NEVER
                : t->v.space_first_only ? SPACE_PREFIX_FIRST
                                        : SPACE_PREFIX_ALWAYS;
    /* only Metaspace prefixes the first stretch alone */
    t->mark = !spm                     ? SPACE_MARK_NONE
              : t->v.space_first_only ? SPACE_MARK_METASPACE
                                      : SPACE_MARK_NORMALIZER;
    t->strip_first = t->v.add_space_prefix;
    if (!spm) TRY(bpe_set_pre(t, v->pre, name, err));
    TRY(copy_tokens(t, v, name, err));
    TRY(tokenizer_finish(t, name, err));
    return v->n_merge || !spm ? copy_merges(t, v, name, err) : SQ_OK;
}

int tokenizer_open_vocab(tokenizer **t, const tokenizer_vocab *v, const char *name, sq_error *err)
{
    *t = NULL;
    if (v->n_token < 1)
        return error_set(err, SQ_E_FORMAT, "%s: the vocabulary is empty", name);
    TRY(tokenizer_alloc(t, v->n_token, err));
    int rc = build(*t, v, name, err);
    if (rc) tokenizer_close(t);
    return rc;
}
