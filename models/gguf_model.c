/* A GGUF pair: the text model and, beside it or named, its vision file (mmproj). */
#include "models/gguf_parts.h"
#include "models/model.h"

#include "core/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What a directory holds of one kind of file. */
typedef struct found {
    char path[4096];
    int n;
} found;

static bool is_gguf(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && strcasecmp(name + n - 5, ".gguf") == 0;
}

static bool is_mmproj(const char *name)
{
    for (; *name; name++)
        if (strncasecmp(name, "mmproj", 6) == 0) return true;
    return false;
}

static int look(const char *dir, bool mmproj, found *out, sq_error *err)
{
    DIR *d = opendir(dir);
    *out = (found){0};
    if (!d) return error_set(err, SQ_E_IO, "%s: cannot open: %s", dir, strerror(errno));
    int rc = SQ_OK;
    for (const struct dirent *e = readdir(d); e && !rc; e = readdir(d)) {
        if (!is_gguf(e->d_name) || is_mmproj(e->d_name) != mmproj) continue;
        if (out->n++ == 0) rc = path_join(out->path, sizeof out->path, dir, e->d_name, err);
    }
    closedir(d);
    return rc;
}

static int find_text(const char *dir, found *text, sq_error *err)
{
    TRY(look(dir, false, text, err));
    if (text->n == 1) return SQ_OK;
    if (text->n == 0)
        return error_set(err, SQ_E_IO, "%s: no config.json and no text model (.gguf)", dir);
    return error_set(err, SQ_E_ARG, "%s: %d text models (.gguf): name one of them", dir, text->n);
}

/* "mmproj-NAME.gguf" beside NAME.gguf, else the only mmproj there. Path stays empty when a text
 * model alone is fine. */
static int find_mmproj(const char *text, const model_options *opt, found *out, sq_error *err)
{
    char dir[4096], name[4200];
    const char *slash = strrchr(text, '/');
    *out = (found){0};
    if (opt->mmproj) {
        int n = snprintf(out->path, sizeof out->path, "%s", opt->mmproj);
        if (n < 0 || (size_t)n >= sizeof out->path)
            return error_set(err, SQ_E_LIMIT, "mmproj: path too long");
        return SQ_OK;
    }
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - text) : 1, slash ? text : ".");
    if (slash == text) snprintf(dir, sizeof dir, "/");
    snprintf(name, sizeof name, "mmproj-%s", slash ? slash + 1 : text);
    TRY(path_join(out->path, sizeof out->path, dir, name, err));
    if (file_exists(out->path)) return SQ_OK;
    TRY(look(dir, true, out, err));
    if (out->n == 1) return SQ_OK;
    out->path[0] = 0;
    if (opt->text_only) return SQ_OK;
    if (out->n == 0)
        return error_set(err, SQ_E_IO, "%s: no vision file (mmproj*.gguf) beside it: give one as "
                                       "mmproj", text);
    return error_set(err, SQ_E_ARG, "%s: %d vision files (mmproj*.gguf) beside it: give one as "
                                    "mmproj", text, out->n);
}

/* Everything is copied or bound, so that the key-values can go afterwards. */
static int read_pair(model *m, gguf_file *text, gguf_file *vision, sq_error *err)
{
    TRY(weight_map_sort(&m->weights, err));
    TRY(gguf_text_read(m, text, err));
    return vision ? gguf_vision_read(m, vision, err) : SQ_OK;
}

int model_open_gguf(model *m, const char *path, const model_options *opt, sq_error *err)
{
    found text = {.n = 1}, mmproj = {0};
    const char *arch;
    if (file_is_dir(path)) {
        TRY(find_text(path, &text, err));
    } else {
        int n = snprintf(text.path, sizeof text.path, "%s", path);
        if (n < 0 || (size_t)n >= sizeof text.path)
            return error_set(err, SQ_E_LIMIT, "%.60s...: path too long", path);
    }
    gguf_file a = {0}, b = {0};
    int rc = gguf_open(&a, &m->weights, text.path, err);
    if (!rc) rc = gguf_text_check(&a, &arch, err);
    if (!rc) rc = find_mmproj(text.path, opt, &mmproj, err);
    if (!rc && *mmproj.path) rc = gguf_open(&b, &m->weights, mmproj.path, err);
    if (!rc && *mmproj.path) rc = gguf_vision_check(&b, err); /* before names meet: two of a kind */
    if (!rc) rc = read_pair(m, &a, *mmproj.path ? &b : NULL, err);
    gguf_close(&a);
    gguf_close(&b);
    return rc;
}
