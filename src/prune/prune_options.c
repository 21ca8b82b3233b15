#include "prune/prune.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

prune_options prune_options_default(void)
{
    return (prune_options){.seed = 0,
                           .start_layer = -1,
                           .ensemble = ENSEMBLE_SUM,
                           .fopru = FOPRU_RANK,
                           .fopru_logits = false};
}

/* Digits only: no sign, no blanks, no hexadecimal, whatever the locale. */
static bool parse_digits(const char *text, uint64_t max, uint64_t *out)
{
    if (!*text || text[strspn(text, "0123456789")]) return false;
    errno = 0;
    unsigned long long v = strtoull(text, NULL, 10);
    if (errno || v > max) return false;
    *out = v;
    return true;
}

static int bad_value(const char *key, const char *expected, const char *found, sq_error *err)
{
    return error_set(err, SQ_E_ARG, "pruning option %s: expected %s, found \"%s\"", key, expected,
                     found);
}

/* The place of value among up to three words; -1 when it is none of them. */
static int word_index(const char *value, const char *const *word)
{
    for (int i = 0; i < 3 && word[i]; i++)
        if (!strcmp(value, word[i])) return i;
    return -1;
}

static int set_seed(prune_options *o, const char *value, sq_error *err)
{
    if (!parse_digits(value, UINT64_MAX, &o->seed))
        return bad_value("seed", "a number from 0 to 2^64 - 1", value, err);
    return SQ_OK;
}

static int set_start_layer(prune_options *o, const char *value, sq_error *err)
{
    uint64_t layer;
    if (!parse_digits(value, 10000, &layer))
        return bad_value("start-layer", "a layer number, 0 or more", value, err);
    o->start_layer = (int)layer;
    return SQ_OK;
}

static int set_ensemble(prune_options *o, const char *value, sq_error *err)
{
    static const char *const word[3] = {"sum", "min", "max"};
    int i = word_index(value, word);
    if (i < 0) return bad_value("ensemble", "sum, min or max", value, err);
    o->ensemble = i == 0 ? ENSEMBLE_SUM : i == 1 ? ENSEMBLE_MIN : ENSEMBLE_MAX;
    return SQ_OK;
}

static int set_strategy(prune_options *o, const char *value, sq_error *err)
{
    static const char *const word[3] = {"rank", "row"};
    int i = word_index(value, word);
    if (i < 0) return bad_value("strategy", "rank or row", value, err);
    o->fopru = i == 0 ? FOPRU_RANK : FOPRU_ROW;
    return SQ_OK;
}

static int set_scores(prune_options *o, const char *value, sq_error *err)
{
    static const char *const word[3] = {"softmax", "logits"};
    int i = word_index(value, word);
    if (i < 0) return bad_value("scores", "softmax or logits", value, err);
    o->fopru_logits = i == 1;
    return SQ_OK;
}

int prune_option_set(prune_options *o, const char *key, const char *value, sq_error *err)
{
    static const struct {
        const char *key;
        int (*set)(prune_options *o, const char *value, sq_error *err);
    } option[] = {{"seed", set_seed},
                  {"start-layer", set_start_layer},
                  {"ensemble", set_ensemble},
                  {"strategy", set_strategy},
                  {"scores", set_scores}};
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (!strcmp(key, option[i].key)) return option[i].set(o, value, err);
    return error_set(err, SQ_E_ARG,
                     "pruning option: expected seed, start-layer, ensemble, strategy or scores, "
                     "found \"%s\"",
                     key);
}

static int keep_error(const char *text, sq_error *err)
{
    return error_set(err, SQ_E_ARG,
                     "keep: expected a count of tokens such as 144 or a share from above 0%% to "
                     "100%% such as 25%%, found \"%s\"",
                     text);
}

/* digits [. digits] %, e.g. "25%" or "12.5%". */
static bool parse_percent(const char *text, double *percent)
{
    size_t whole = strspn(text, "0123456789"), end = whole;
    if (text[whole] == '.') end += 1 + strspn(text + whole + 1, "0123456789");
    bool dot_alone = end == whole + 1;
    if (whole == 0 || whole > 3 || dot_alone || strcmp(text + end, "%")) return false;
    double value = 0, unit = 0.1; /* not strtod: its decimal point depends on the locale */
    for (size_t i = 0; i < whole; i++)
        value = value * 10 + (text[i] - '0');
    for (size_t i = whole + 1; i < end; i++, unit /= 10)
        value += (text[i] - '0') * unit;
    *percent = value;
    return value > 0 && value <= 100;
}

int prune_keep_parse(const char *text, prune_keep *keep, sq_error *err)
{
    uint64_t count;
    double percent;
    if (parse_digits(text, 1000000000, &count) && count > 0)
        *keep = (prune_keep){.count = (int)count};
    else if (parse_percent(text, &percent))
        *keep = (prune_keep){.percent = percent};
    else
        return keep_error(text, err);
    return SQ_OK;
}

int prune_n_keep(prune_keep keep, int n_tok, prune_rounding r)
{
    if (keep.count > 0) return keep.count < n_tok ? keep.count : n_tok;
    if (!(keep.percent > 0) || keep.percent >= 100) return n_tok;
    double n = n_tok * keep.percent / 100 + (r == PRUNE_NEAREST ? 0.5 : 0);
    n = floor(n + 1e-9); /* a decimal share such as 28.7% of 1000 is 287, not 286.99999999 */
    return n < 1 ? 1 : n > n_tok ? n_tok : (int)n;
}
