/* Next-token choice: greedy, or temperature with top-k and top-p. */
#ifndef SQ_SAMPLER_H
#define SQ_SAMPLER_H

#include "core/arena.h"
#include "core/error.h"

#include <stdint.h>

typedef struct sampler {
    float temperature; /* 0: greedy, ties to the lower id */
    int top_k;         /* 0: off */
    float top_p;       /* 1: off */
    uint64_t state;    /* random state; sampler_seed sets it */
} sampler;

void sampler_seed(sampler *s, uint64_t seed);

/* *id from logits[n]; gap (may be NULL) gets the distance of the two largest logits. scratch needs
 * 8 n bytes. SQ_E_FORMAT when the logits hold a NaN. */
int sampler_pick(sampler *s, const float *logits, int n, arena *scratch, int32_t *id, float *gap,
                 sq_error *err);

#endif
