#include "cli/cli.h"

#include "core/file.h"

#include <stdlib.h>
#include <string.h>

const char help_pixels[] =
    "squint pixels: what the decoder made of a picture, or what the model sees of it\n\n"
    "usage: squint pixels --image FILE [-m MODEL] -o OUT.png|OUT.ppm|OUT.npy\n\n"
    "Without -m: the decoded picture (npy: uint8 [height, width, 3]). With -m: after\n"
    "preprocessing (png, ppm: before normalisation; npy: float32 [views, 3, side, side]).\n\n"
    "  -i, --image FILE    JPEG or PNG\n"
    "  -o, --output FILE   the ending chooses the format\n"
    "      --no-exif       ignore the picture's orientation mark\n"
    "      --max-pixels N  in millions, default 178\n"
    "      --allow-truncated   use what is there of a cut-off file\n"
    "      --tiles off     one view (tiles are not there yet)\n"
    CLI_FILES_HELP
    "\nexample:\n"
    "  squint pixels --image samples/frogs.jpg -m models/demo -o view.png\n";

typedef struct pixels_args {
    cli_model model;
    sq_image_options image;
    const char *path, *out, *tiles;
    int max_pixels;
} pixels_args;

/* NumPy's format 1.0: magic, header length, a Python dict padded to 64 bytes, the data. */
static int write_npy(const char *path, const char *type, const int *shape, int rank,
                     const void *data, size_t size)
{
    char head[256], dims[96] = "";
    for (int i = 0; i < rank; i++)
        snprintf(dims + strlen(dims), sizeof dims - strlen(dims), "%d, ", shape[i]);
    int n = snprintf(head, sizeof head,
                     "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, dims);
    int total = (10 + n + 1 + 63) / 64 * 64, length = total - 10;
    while (n < length - 1)
        head[n++] = ' ';
    head[n++] = '\n';
    const unsigned char magic[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0,
                                     (unsigned char)(length & 255), (unsigned char)(length >> 8)};
    file_writer w;
    sq_error err = {0};
    int rc = file_writer_open(&w, path, &err);
    if (!rc) rc = file_write(&w, magic, sizeof magic, &err);
    if (!rc) rc = file_write(&w, head, (size_t)n, &err);
    if (!rc) rc = file_write(&w, data, size, &err);
    if (!rc) rc = file_writer_commit(&w, &err);
    file_writer_abort(&w); /* does nothing after a commit */
    return rc ? cli_fail("pixels", rc, err.text) : EXIT_DONE;
}

static int write_picture(const char *path, int width, int height, const uint8_t *rgb)
{
    char text[512];
    int rc = sq_image_write(path, width, height, rgb, text, sizeof text);
    return rc ? cli_fail("pixels", rc, text) : EXIT_DONE;
}

static int write_decoded(const pixels_args *a)
{
    int width, height;
    uint8_t *rgb = NULL;
    char text[4608];
    int rc = sq_image_decode(a->path, &a->image, &width, &height, &rgb, text, sizeof text);
    if (rc) return cli_fail("pixels", rc, text);
    int shape[3] = {height, width, 3};
    size_t size = (size_t)width * (size_t)height * 3;
    int code = path_ends_with(a->out, ".npy") ? write_npy(a->out, "|u1", shape, 3, rgb, size)
                                             : write_picture(a->out, width, height, rgb);
    free(rgb);
    return code;
}

static int write_views(const pixels_args *a)
{
    sq_model *m = NULL;
    float *pixels = NULL;
    uint8_t *rgb = NULL;
    int n_view = 0, side = 0;
    int code = cli_model_open(&m, "pixels", &a->model, false);
    if (!code) {
        int rc = sq_model_view(m, a->path, &a->image, &n_view, &side, &pixels, &rgb);
        if (rc) code = cli_fail("pixels", rc, sq_model_error(m));
    }
    if (!code) {
        int shape[4] = {n_view, 3, side, side};
        size_t n = (size_t)n_view * 3 * (size_t)side * (size_t)side;
        code = path_ends_with(a->out, ".npy")
                   ? write_npy(a->out, "<f4", shape, 4, pixels, n * sizeof *pixels)
                   : write_picture(a->out, side, n_view * side, rgb);
    }
    free(pixels);
    free(rgb);
    sq_model_close(&m);
    return code;
}

int cmd_pixels(int argc, char **argv)
{
    pixels_args a = {.model.backend = "cpu"}; /* nothing is computed */
    const cli_option opt[] = {CLI_MODEL_ROWS(a.model),
                              {"--image", "-i", CLI_TEXT, &a.path},
                              {"--output", "-o", CLI_TEXT, &a.out},
                              {"--no-exif", NULL, CLI_FLAG, &a.image.ignore_exif},
                              {"--max-pixels", NULL, CLI_INT, &a.max_pixels, 1, 1 << 16},
                              {"--allow-truncated", NULL, CLI_FLAG, &a.image.allow_truncated},
                              {"--tiles", NULL, CLI_TEXT, &a.tiles},
                              {NULL}};
    int code = cli_parse(argc, argv, opt, NULL, help_pixels);
    if (code >= 0) return code;
    if (!a.path) return cli_usage("pixels", "no picture: --image FILE is needed");
    if (!a.out) return cli_usage("pixels", "no output: -o FILE is needed");
    if (a.tiles && strcmp(a.tiles, "off"))
        return cli_usage("pixels", "--tiles: only \"off\" is there, found \"%s\"", a.tiles);
    code = cli_check_picture("pixels", "-o", a.out, true);
    if (code >= 0) return code;
    a.image.max_pixels = (int64_t)a.max_pixels * 1000000;
    return a.model.model ? write_views(&a) : write_decoded(&a);
}
