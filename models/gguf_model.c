#include "models/model.h"
int model_open_gguf(model *m, const char *path, const model_options *opt, sq_error *err)
{
    (void)m; (void)opt;
    return error_set(err, SQ_E_UNSUPPORTED, "%s: later", path);
}
int model_convert(const model *m, const char *dir_out, const char *name, sq_dtype type,
                  const sq_log *log, sq_error *err)
{
    (void)m; (void)dir_out; (void)name; (void)type; (void)log;
    return error_set(err, SQ_E_UNSUPPORTED, "later");
}
