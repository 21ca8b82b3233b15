#include "models/model.h"

#include "core/file.h"

#include <stdio.h>
#include <string.h>

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static int open_any(model *m, const char *path, const model_options *opt, sq_error *err)
{
    static const char synthetic[] = "synthetic:";
    char config[4096];
    if (strncmp(path, synthetic, sizeof synthetic - 1) == 0)
        return model_open_synthetic(m, path + sizeof synthetic - 1, err);
    if (!file_exists(path)) return error_set(err, SQ_E_IO, "%s: no such file or directory", path);
    if (!file_is_dir(path)) {
        if (ends_with(path, ".gguf")) return model_open_gguf(m, path, opt, err);
        return error_set(err, SQ_E_UNSUPPORTED,
                         "%s: expected a Hugging Face directory or a .gguf file", path);
    }
    TRY(path_join(config, sizeof config, path, "config.json", err));
    return file_exists(config) ? model_open_hf(m, path, opt, err)
                               : model_open_gguf(m, path, opt, err);
}

int model_open(model *m, const char *path, const model_options *opt, const sq_log *log,
               sq_error *err)
{
    static const model_options plain = {.fit = FIT_AUTO};
    (void)log;
    if (!opt) opt = &plain;
    memset(m, 0, sizeof *m);
    snprintf(m->path, sizeof m->path, "%s", path);
    int rc = open_any(m, path, opt, err);
    if (!rc && opt->fit != FIT_AUTO) m->pre.fit = opt->fit;
    if (!rc && opt->template_name) {
        m->tmpl = prompt_find(opt->template_name);
        if (!m->tmpl) rc = error_set(err, SQ_E_ARG, "unknown template \"%s\"", opt->template_name);
    }
    if (rc) model_close(m);
    return rc;
}

void model_close(model *m)
{
    if (m->tok) tokenizer_close(&m->tok);
    weight_map_close(&m->weights);
    arena_close(&m->mem);
    memset(m, 0, sizeof *m);
}
