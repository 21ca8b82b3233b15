#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>

#ifndef SQ_CUDA
static int cuda_probe(sq_error *err)
{
    return error_set(err, SQ_E_BACKEND,
                     "cuda: not part of this build (cmake -DSQ_CUDA=ON, it needs nvcc)");
}

const backend_row backend_cuda = {"cuda", cuda_probe, NULL, NULL};
#endif

const backend_row *const backend_rows[] = {&backend_cuda, &backend_cpu, NULL};

static const backend_row *row_find(const char *name)
{
    if (strncmp(name, "diff:", 5) == 0) return &backend_diff;
    for (const backend_row *const *r = backend_rows; *r; r++)
        if (strcmp((*r)->name, name) == 0) return *r;
    return NULL;
}

static int open_row(sq_backend **out, const backend_row *row, const backend_options *o,
                    sq_error *err)
{
    TRY(row->probe(err));
    sq_backend *be = calloc(1, sizeof *be);
    if (!be) return error_set(err, SQ_E_NOMEM, "backend %s: out of memory", row->name);
    be->name = row->name;
    backend_at(be, "start", -1);
    int rc = row->open(be, o, err);
    if (rc)
        backend_close(&be);
    else
        *out = be;
    return rc;
}

int backend_open(sq_backend **out, const backend_options *o, sq_error *err)
{
    *out = NULL;
    if (o->name && strcmp(o->name, "auto") != 0) {
        const backend_row *row = row_find(o->name);
        if (!row)
            return error_set(err, SQ_E_ARG, "unknown backend \"%s\" (squint info --backends)",
                             o->name);
        return open_row(out, row, o, err);
    }
    int rc = SQ_E_BACKEND;
    for (const backend_row *const *r = backend_rows; *r; r++) {
        error_clear(err); /* only the last row's reason is left when none can start */
        rc = open_row(out, *r, o, err);
        if (!rc || o->device) return rc; /* who names a device wants it or nothing */
    }
    return rc;
}

void backend_close(sq_backend **out)
{
    sq_backend *be = *out;
    if (!be) return;
    if (be->close_priv) be->close_priv(be);
    free(be);
    *out = NULL;
}
