/* VTC-CLS (THU-MIG/VTC-CLS): CLS attention gathered over several layers.
 *
 *     score[t] = sum over layers start .. feature layer (inclusive) of
 *                mean over heads of softmax(q k^T / sqrt(head_dim))[CLS, t]
 *
 * The authors write attentions[start:-1]; their default start is 16 of 24 layers, ours two thirds
 * of the depth, which is the same there (and 6 of 9), but never past the feature layer. min and
 * max instead of sum are the authors' commented-out variants. start = feature layer is FasterVLM.
 * Differs from the authors' code: f32 with ties to the lower index (theirs: fp16, unstable topk);
 * any number of pictures and views, each on its own (theirs: batch 1, 576 patches).
 * Golden: tests/golden/prune_golden.json by prune_reference.py. */
#include "prune/policies.h"

#include <math.h>

void vtc_cls_needs(const prune_tower *t, const prune_options *o, prune_needs *out)
{
    int start = o->start_layer == -1 ? 2 * t->n_layer / 3 : o->start_layer;
    /* A wrong start layer is captured as a valid one; plan() then refuses it by name. */
    if (start > t->feature_layer) start = t->feature_layer;
    out->cls_rows = true;
    out->row_first = start < 0 ? 0 : start;
    out->row_last = t->feature_layer;
}

static int start_check(const prune_view *w, const prune_options *o, sq_error *err)
{
    int feature = w->row_first + w->row_count - 1;
    if (o->start_layer == -1 || o->start_layer == w->row_first) return SQ_OK;
    return error_set(err, SQ_E_ARG, "vtc-cls: start-layer: expected 0 to %d, found %d", feature,
                     o->start_layer);
}

static double ensemble_join(const prune_options *o, double a, double b)
{
    switch (o->ensemble) {
    case ENSEMBLE_MIN:
        return b < a ? b : a;
    case ENSEMBLE_MAX:
        return b > a ? b : a;
    case ENSEMBLE_SUM:
        break;
    }
    return a + b;
}

/* score[n_tok] over all captured layers; each layer's mean must be finite, or min and max would
 * hide a NaN. */
static int ensemble_score(float *score, const prune_view *w, const prune_options *o, sq_error *err)
{
    size_t layer_size = (size_t)w->n_head * w->n_tok;
    for (int t = 0; t < w->n_tok; t++) {
        double joined = 0;
        for (int l = 0; l < w->row_count; l++) {
            double mean = 0;
            for (int h = 0; h < w->n_head; h++)
                mean += w->cls_rows[l * layer_size + (size_t)h * w->n_tok + t];
            mean /= w->n_head;
            joined = l == 0 || !isfinite(mean) ? mean : ensemble_join(o, joined, mean);
            if (!isfinite(joined)) break;
        }
        score[t] = (float)joined;
    }
    return score_check(score, w->n_tok, err);
}

int vtc_cls_plan(const prune_input *in, prune_plan *plan, sq_error *err)
{
    for (int v = 0, base = 0; v < in->n_view; base += in->view[v++].n_tok) {
        const prune_view *w = &in->view[v];
        if (!w->cls_rows || w->row_count < 1 || w->n_head < 1)
            return error_set(err, SQ_E_ARG, "vtc-cls: view %d: no CLS attention captured", v);
        TRY(start_check(w, in->opt, err));
        float *score = arena_calloc(in->scratch, (size_t)w->n_tok, sizeof *score);
        if (!score) return SQ_E_NOMEM;
        TRY(ensemble_score(score, w, in->opt, err));
        int n_keep = prune_n_keep(in->keep, w->n_tok, PRUNE_NEAREST);
        TRY(plan_keep_top(plan, base, score, w->n_tok, n_keep, in->scratch, err));
    }
    return SQ_OK;
}
