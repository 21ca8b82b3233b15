#include "vision/image.h"

#include "core/file.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <string.h>

static int write_ppm(file_writer *w, const sq_image *im, sq_error *err)
{
    char head[64];
    int n = snprintf(head, sizeof head, "P6\n%d %d\n255\n", im->width, im->height);
    TRY(file_write(w, head, (size_t)n, err));
    return file_write(w, im->rgb, (size_t)im->width * (size_t)im->height * 3, err);
}

static int write_png(file_writer *w, const sq_image *im, sq_error *err)
{
    png_image out = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)im->width,
                     .height = (png_uint_32)im->height,
                     .format = PNG_FORMAT_RGB};
    errno = 0; /* libpng does not look at its last flush, and says only "Write Error" */
    bool ok = png_image_write_to_stdio(&out, w->f, 0, im->rgb, 0, NULL) && !ferror(w->f);
    int rc = ok ? SQ_OK
                : error_set(err, SQ_E_IO, "%s: cannot write: %s", w->path,
                            errno ? strerror(errno) : out.message);
    png_image_free(&out);
    return rc;
}

int image_save(const sq_image *im, const char *path, sq_error *err)
{
    bool png = path_ends_with(path, ".png");
    if (!png && !path_ends_with(path, ".ppm"))
        return error_set(err, SQ_E_ARG, "%s: expected a name ending in .png or .ppm", path);
    if (!im->rgb) return error_set(err, SQ_E_ARG, "%s: there is no picture to write", path);
    file_writer w;
    TRY(file_writer_open(&w, path, err));
    int rc = png ? write_png(&w, im, err) : write_ppm(&w, im, err);
    if (!rc) return file_writer_commit(&w, err);
    file_writer_abort(&w);
    return rc;
}
