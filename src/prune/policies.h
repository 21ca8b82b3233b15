/* The doors of the policies, one file each; registry.c alone reads this list. */
#ifndef SQ_POLICIES_H
#define SQ_POLICIES_H

#include "prune/prune.h"

int prune_none_plan(const prune_input *in, prune_plan *plan, sq_error *err);
int prune_random_plan(const prune_input *in, prune_plan *plan, sq_error *err);
int prune_uniform_plan(const prune_input *in, prune_plan *plan, sq_error *err);

void fastervlm_needs(const prune_tower *t, const prune_options *o, prune_needs *out);
int fastervlm_plan(const prune_input *in, prune_plan *plan, sq_error *err);

void vtc_cls_needs(const prune_tower *t, const prune_options *o, prune_needs *out);
int vtc_cls_plan(const prune_input *in, prune_plan *plan, sq_error *err);

void fopru_needs(const prune_tower *t, const prune_options *o, prune_needs *out);
int fopru_plan(const prune_input *in, prune_plan *plan, sq_error *err);

void globalcom2_needs(const prune_tower *t, const prune_options *o, prune_needs *out);
int globalcom2_plan(const prune_input *in, prune_plan *plan, sq_error *err);

#endif
