/* Planted faults: wrong copies of a backend's functions, and how to look into its tensors. */
#ifndef OPCHECK_FAULTS_H
#define OPCHECK_FAULTS_H

#include "opcheck.h"

typedef struct oc_fault {
    const char *name, *slot;
    sq_ops ops;               /* the one slot that is set replaces the backend's */
    bool f32;                 /* 16 bits are too coarse to tell */
    bool bf16;                /* of a CPU that computes so */
    bool device;              /* only resident backends have the cases */
    void (*check)(oc_run *r); /* the cases that must tell; NULL: the slot's */
    void (*plant)(oc_run *r); /* what is no slot: changes r->be's functions or r->region */
} oc_fault;

extern const oc_fault oc_long_faults[]; /* opcheck_faults_long.c; ends with name NULL */

/* A tensor's values as f32, whatever float type it has; to be freed. */
float *oc_fetch(sq_backend *be, const sq_tensor *t);
void oc_put_back(sq_backend *be, const sq_tensor *t, float *host); /* frees host */
int32_t *oc_fetch_ints(sq_backend *be, const sq_tensor *t);

#endif
