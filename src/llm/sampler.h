/* Next-token choice: greedy, or temperature, top-k, top-p in this order, as in transformers. */
#ifndef SQ_SAMPLER_H
#define SQ_SAMPLER_H

#include "core/arena.h"
#include "core/error.h"

#include <stdint.h>

typedef struct sampler {
    float temperature; /* 0: greedy, ties to the lower id */
    int top_k;         /* 0: off; logits equal to the k-th largest stay, too */
    float top_p;       /* 1: off; else the likeliest ids until their share reaches top_p, the one
                        * that reaches it included; ties to the lower id */
    uint64_t state;    /* random state; sampler_seed sets it */
} sampler;

void sampler_seed(sampler *s, uint64_t seed);

/* *id from logits[n]; gap (may be NULL) gets the distance of the two largest logits. scratch needs
 * 8 n bytes when sampling. SQ_E_FORMAT when a logit is NaN or the largest is not finite (-inf is
 * an id that is never taken), SQ_E_ARG when a setting is out of range. */
int sampler_pick(sampler *s, const float *logits, int n, arena *scratch, int32_t *id, float *gap,
                 sq_error *err);

/* Whether a greedy choice that was already made (best and gap of the op table's argmax) may stand:
 * SQ_E_FORMAT when a logit was NaN or only one of the two largest is finite (of two that are
 * infinite argmax tells nothing), SQ_E_ARG as above. */
int sampler_accept(const sampler *s, int32_t best, float gap, sq_error *err);

#endif
