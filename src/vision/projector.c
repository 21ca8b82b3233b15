#include "vision/projector.h"

int projector_forward(sq_backend *be, const projector_model *m, sq_tensor *y, const sq_tensor *x,
                      arena *dev, sq_error *err)
{
    int64_t n = x->shape[0];
    arena_mark mark = arena_get_mark(dev);
    size_t row = dtype_row_bytes(be->act, m->mid_dim);
    sq_tensor mid = tensor_2d(arena_alloc(dev, (size_t)n * row), be->act, n, m->mid_dim);
    if (!mid.data) return error_set(err, SQ_E_NOMEM, "projector: out of memory");
    backend_at(be, "projector", -1);
    be->ops.linear(be, &mid, x, &m->fc1_w, &m->fc1_b, &(linear_desc){.act = m->act});
    be->ops.linear(be, y, &mid, &m->fc2_w, &m->fc2_b, &(linear_desc){0});
    arena_rewind(dev, mark);
    if (be->err.code) return error_set(err, be->err.code, "%s", be->err.text);
    return SQ_OK;
}
