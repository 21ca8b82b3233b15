#include "prune/policies.h"
#include "prune/prune.h"

#include <math.h>
#include <string.h>

enum { MAX_VIEWS = 64, MAX_VIEW_TOKENS = 1 << 20 };

const prune_policy prune_policies[] = {
    {"none", "baseline", "keep every visual token", "", PRUNE_NEAREST, NULL, prune_none_plan},
    {"random", "baseline", "keep tokens at random, seeded", "seed=N", PRUNE_NEAREST, NULL,
     prune_random_plan},
    {"uniform", "baseline", "keep tokens evenly spread over the raster", "", PRUNE_NEAREST, NULL,
     prune_uniform_plan},
    {"fastervlm", "arXiv:2412.01818", "CLS attention of the feature layer, mean of heads", "",
     PRUNE_NEAREST, fastervlm_needs, fastervlm_plan},
    {"vtc-cls", "THU-MIG/VTC-CLS", "CLS attention gathered over the layers up to the feature layer",
     "start-layer=N ensemble=sum|min|max", PRUNE_NEAREST, vtc_cls_needs, vtc_cls_plan},
    {"fopru", "arXiv:2411.14164", "attention among patches, received or given; tokens or grid rows",
     "strategy=rank|row scores=softmax|logits", PRUNE_FLOOR, fopru_needs, fopru_plan},
    {"globalcom2", "arXiv:2501.05179",
     "last layer's CLS logits; the whole picture's map steers the tiles' budgets", "", PRUNE_FLOOR,
     globalcom2_needs, globalcom2_plan},
    {NULL, NULL, NULL, NULL, PRUNE_NEAREST, NULL, NULL},
};

const prune_policy *prune_find(const char *name)
{
    for (const prune_policy *p = prune_policies; p->name; p++)
        if (!strcmp(p->name, name)) return p;
    return NULL;
}

prune_needs prune_needs_of(const prune_policy *p, const prune_tower *t, const prune_options *o)
{
    prune_needs needs = {0};
    if (p->needs) p->needs(t, o, &needs);
    return needs;
}

static bool view_is_sound(const prune_view *v)
{
    return v->grid_w > 0 && v->grid_h > 0 && v->n_tok > 0 && v->n_tok <= MAX_VIEW_TOKENS &&
           (int64_t)v->grid_w * v->grid_h == v->n_tok;
}

static int input_check(const prune_input *in, int *n_in, sq_error *err)
{
    if (in->n_view < 1 || in->n_view > MAX_VIEWS)
        return error_set(err, SQ_E_ARG, "prune: views: expected 1 to %d, found %d", MAX_VIEWS,
                         in->n_view);
    *n_in = 0;
    for (int i = 0; i < in->n_view; i++) {
        const prune_view *v = &in->view[i];
        if (!view_is_sound(v))
            return error_set(err, SQ_E_ARG,
                             "prune: view %d: expected grid_w * grid_h tokens, found %d of %d x %d",
                             i, v->n_tok, v->grid_w, v->grid_h);
        *n_in += v->n_tok;
    }
    return SQ_OK;
}

static bool row_is_sound(const prune_plan *p, int r)
{
    int first = p->start[r], end = p->start[r + 1];
    if (first < 0 || end <= first || end > p->n_entry) return false;
    for (int e = first; e < end; e++)
        if (p->index[e] < 0 || p->index[e] >= p->n_in || !isfinite(p->weight[e])) return false;
    return true;
}

static int plan_check(const prune_plan *p, const char *policy, sq_error *err)
{
    if (p->n_out < 1 || p->n_out > p->n_in)
        return error_set(err, SQ_E_FORMAT, "%s: plan: expected 1 to %d tokens, found %d", policy,
                         p->n_in, p->n_out);
    for (int r = 0; r < p->n_out; r++)
        if (!row_is_sound(p, r))
            return error_set(err, SQ_E_FORMAT, "%s: plan: row %d is not valid", policy, r);
    return SQ_OK;
}

int prune_run(const prune_policy *p, const prune_input *in, prune_plan *plan, sq_error *err)
{
    int n_in = 0;
    TRY(input_check(in, &n_in, err));
    if (plan_init(plan, n_in, plan->mem ? plan->mem : in->scratch))
        return error_set(err, SQ_E_NOMEM, "%s: out of memory", p->name);
    int rc = p->plan(in, plan, err);
    if (rc)
        return error_set(err, rc, rc == SQ_E_NOMEM ? "%s: out of memory" : "%s: cannot plan",
                         p->name);
    return plan_check(plan, p->name, err);
}
