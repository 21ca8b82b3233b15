/* What can compute here, and what a comparing backend found. */
#include "kernels/backend_diff.h"
#include "squint_impl.h"

#include <stdio.h>
#include <string.h>

static int n_backends(void)
{
    int n = 0;
    while (backend_rows[n])
        n++;
    return n;
}

/* "cuda: why" without the name: it has a field of its own. */
static const char *without_name(const char *text, const char *name)
{
    size_t n = strlen(name);
    return strncmp(text, name, n) || strncmp(text + n, ": ", 2) ? text : text + n + 2;
}

int sq_backend_get(int i, sq_backend_info *out)
{
    if (i < 0 || i >= n_backends()) return SQ_E_ARG;
    sq_error err = {0};
    backend_options o = {.name = backend_rows[i]->name};
    sq_backend *be = NULL;
    out->name = backend_rows[i]->name;
    if (backend_open(&be, &o, &err) == SQ_OK)
        snprintf(out->state, sizeof out->state, "ok: %.150s",
                 without_name(be->describe, out->name));
    else
        snprintf(out->state, sizeof out->state, "%.150s", without_name(err.text, out->name));
    backend_close(&be);
    return SQ_OK;
}

int sq_backend_get_device(int i, int device, sq_device_info *out)
{
    backend_device d = {{0}};
    if (i < 0 || i >= n_backends() || device < 0 || !backend_rows[i]->device) return SQ_E_ARG;
    TRY(backend_rows[i]->device(device, &d));
    *out = (sq_device_info){.memory_bytes = d.memory, .major = d.major, .minor = d.minor};
    snprintf(out->name, sizeof out->name, "%s", d.name);
    snprintf(out->state, sizeof out->state, "%.150s", d.err.code ? d.err.text : "ok");
    return SQ_OK;
}

int sq_diff_get(const sq_model *m, int i, sq_diff_info *out)
{
    diff_count c;
    if (!m || !m->be) return SQ_E_ARG;
    TRY(diff_get(m->be, i, &c));
    *out = (sq_diff_info){.op = c.op, .n = c.n, .worst = c.worst, .part = c.part,
                           .layer = c.layer};
    snprintf(out->shape, sizeof out->shape, "%s", c.shape);
    return SQ_OK;
}
