/* tokenizer.model: SentencePiece's ModelProto (google/sentencepiece, sentencepiece_model.proto),
 * read field by field; BPE models whose normaliser only deals with spaces. */
#include "core/file.h"
#include "llm/tokenizer_impl.h"

#include <math.h>
#include <string.h>

typedef struct proto {
    const unsigned char *at, *end;
    bool bad;
} proto;

typedef struct field {
    uint64_t key;  /* field number */
    unsigned wire; /* 0 varint, 1 eight bytes, 2 a stretch of bytes, 5 four bytes */
    uint64_t value;
    proto bytes;
} field;

static uint64_t read_varint(proto *p)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (p->at == p->end) break;
        unsigned char b = *p->at++;
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128) return v;
    }
    p->bad = true;
    return 0;
}

/* The next field of p; false at the end and when the bytes make no field. */
static bool next_field(proto *p, field *f)
{
    if (p->bad || p->at == p->end) return false;
    uint64_t tag = read_varint(p), size = 0;
    *f = (field){.key = tag >> 3, .wire = (unsigned)(tag & 7)};
    if (f->wire == 0)
        f->value = read_varint(p);
    else if (f->wire == 2)
        size = read_varint(p);
    else
        size = f->wire == 1 ? 8 : f->wire == 5 ? 4 : UINT64_MAX;
    if (f->key == 0 || size > (uint64_t)(p->end - p->at)) p->bad = true;
    if (p->bad) return false;
    f->bytes = (proto){p->at, p->at + size, false};
    for (uint64_t i = 0; i < size && f->wire == 5; i++)
        f->value |= (uint64_t)p->at[i] << (8 * i);
    p->at += size;
    return true;
}

enum { PIECE_UNKNOWN = 2, PIECE_UNUSED = 5, MODEL_BPE = 2 };

typedef struct spm_file {
    const char *path;
    sq_error *err;
    int n_piece, unk, bos, eos, pad, model;
    bool prefix, trim, escape, suffix, charsmap, fallback;
} spm_file;

static int damaged(const spm_file *s, const char *what)
{
    return error_set(s->err, SQ_E_FORMAT, "%s: %s: not a SentencePiece model", s->path, what);
}

static int read_trainer(spm_file *s, proto p)
{
    field f;
    while (next_field(&p, &f)) {
        int v = (int)(int64_t)f.value;
        if (f.wire != 0) continue;
        switch (f.key) {
        case 3: s->model = v; break;
        case 24: s->suffix = v != 0; break;
        case 35: s->fallback = v != 0; break;
        case 40: s->unk = v; break;
        case 41: s->bos = v; break;
        case 42: s->eos = v; break;
        case 43: s->pad = v; break;
        default: break;
        }
    }
    return p.bad ? damaged(s, "trainer_spec") : SQ_OK;
}

static int read_normalizer(spm_file *s, proto p)
{
    field f;
    while (next_field(&p, &f)) {
        if (f.key == 2 && f.wire == 2) s->charsmap = f.bytes.at != f.bytes.end;
        if (f.key == 3 && f.wire == 0) s->prefix = f.value != 0;
        if (f.key == 4 && f.wire == 0) s->trim = f.value != 0;
        if (f.key == 5 && f.wire == 0) s->escape = f.value != 0;
    }
    return p.bad ? damaged(s, "normalizer_spec") : SQ_OK;
}

static int read_specs(spm_file *s, proto p)
{
    field f;
    while (next_field(&p, &f)) {
        if (f.wire != 2) continue;
        s->n_piece += f.key == 1;
        if (f.key == 2) TRY(read_trainer(s, f.bytes));
        if (f.key == 3) TRY(read_normalizer(s, f.bytes));
    }
    if (p.bad || s->n_piece == 0) return damaged(s, "pieces");
    const char *cannot = s->model != MODEL_BPE ? "a model type other than BPE"
                         : s->charsmap         ? "a normaliser other than identity"
                         : !s->escape          ? "escape_whitespaces off"
                         : s->suffix           ? "treat_whitespace_as_suffix"
                                               : NULL;
    if (!cannot) return SQ_OK;
    return error_set(s->err, SQ_E_UNSUPPORTED, "%s: %s is not supported", s->path, cannot);
}

static int read_piece(const spm_file *s, tokenizer *t, int id, proto p)
{
    field f;
    uint32_t bits = 0;
    int type = TOKEN_NORMAL;
    const unsigned char *text = NULL;
    size_t size = 0;
    float score;
    while (next_field(&p, &f)) {
        if (f.key == 1 && f.wire == 2) {
            text = f.bytes.at;
            size = (size_t)(f.bytes.end - text);
        }
        if (f.key == 2 && f.wire == 5) bits = (uint32_t)f.value;
        if (f.key == 3 && f.wire == 0) type = f.value <= TOKEN_BYTE ? (int)f.value : 0;
    }
    memcpy(&score, &bits, sizeof score);
    if (p.bad || type < TOKEN_NORMAL || !isfinite(score) || size == 0 || memchr(text, 0, size))
        return error_set(s->err, SQ_E_FORMAT, "%s: piece %d: expected text, a score and a type",
                         s->path, id);
    if (type == PIECE_UNUSED)
        return error_set(s->err, SQ_E_UNSUPPORTED, "%s: piece %d: unused pieces are not supported",
                         s->path, id);
    if (type == TOKEN_USER_DEFINED) t->flag[id] = ADDED_INNER;
    return tokenizer_set(t, id, (const char *)text, size, score, (token_type)type, s->err);
}

static int checked_id(const tokenizer *t, int id)
{
    return id >= 0 && id < t->v.n_token ? id : -1;
}

static int build(tokenizer **out, spm_file *s, proto p, const char *dir)
{
    field f;
    int id = 0;
    TRY(read_specs(s, p));
    TRY(tokenizer_alloc(out, s->n_piece, s->err));
    tokenizer *t = *out;
    while (next_field(&p, &f))
        if (f.key == 1 && f.wire == 2) TRY(read_piece(s, t, id++, f.bytes));
    t->v.kind = TOKENIZER_SPM;
    t->v.pre = "default";
    t->v.unk = checked_id(t, s->unk);
    t->v.bos = checked_id(t, s->bos);
    t->v.eos = checked_id(t, s->eos);
    t->v.pad = checked_id(t, s->pad);
    t->v.add_bos = t->v.bos >= 0;
    if (t->v.unk < 0 || t->type[t->v.unk] != PIECE_UNKNOWN)
        return damaged(s, "trainer_spec.unk_id");
    t->prefix = s->prefix ? SPACE_PREFIX_ALWAYS : SPACE_PREFIX_NEVER;
    t->mark = SPACE_MARK_NORMALIZER;
    t->trim_spaces = s->trim;
    t->strip_first = s->prefix || s->trim;
    t->no_fallback = !s->fallback;
    if (dir) TRY(tokenizer_config_spaces(t, dir, s->err));
    if (dir) TRY(tokenizer_config_tokens(t, dir, s->err));
    t->v.add_space_prefix = t->prefix != SPACE_PREFIX_NEVER;
    t->v.space_first_only = t->prefix == SPACE_PREFIX_FIRST;
    TRY(tokenizer_finish(t, s->path, s->err));
    return dir ? tokenizer_config_specials(t, dir, s->err) : SQ_OK;
}

int tokenizer_read_spm(tokenizer **t, const char *path, const char *dir, sq_error *err)
{
    file_map m;
    spm_file s = {.path = path, .err = err, .unk = 0, .bos = 1, .eos = 2, .pad = -1, .model = 1,
                  .prefix = true, .trim = true, .escape = true};
    *t = NULL;
    TRY(file_map_open(&m, path, err));
    int rc = build(t, &s, (proto){m.data, m.data + m.size, false}, dir);
    file_map_close(&m);
    return rc;
}
