/* --show: the model's view with the dropped patches darkened. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

/* Dropped patches fade to a quarter of their light; kept ones stay as they are. */
static int draw_view(const uint8_t *view, int side, const sq_image_report *im, uint8_t *out,
                     int stride)
{
    int n = im->grid * im->grid;
    bool *kept = calloc((size_t)n, sizeof *kept);
    if (!kept) return SQ_E_NOMEM;
    for (int i = 0; i < im->tokens_kept; i++)
        if (im->kept[i] >= 0 && im->kept[i] < n) kept[im->kept[i]] = true;
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            bool keep = kept[y * im->grid / side * im->grid + x * im->grid / side];
            for (int c = 0; c < 3; c++) {
                uint8_t v = view[(y * side + x) * 3 + c];
                out[y * stride + x * 3 + c] = keep ? v : (uint8_t)(v / 4 + 24);
            }
        }
    free(kept);
    return SQ_OK;
}

int show_kept(const char *command, sq_model *m, const cli_list *image, const sq_image_options *opt,
              const sq_report *r, const char *path)
{
    uint8_t *out = NULL;
    int side = 0, code = EXIT_DONE;
    char text[512];
    for (int i = 0; i < image->n && !code; i++) {
        int n_view = 0;
        float *pixels = NULL;
        uint8_t *view = NULL;
        int rc = sq_model_view(m, image->item[i], opt, &n_view, &side, &pixels, &view);
        if (rc) {
            code = cli_fail(command, rc, sq_model_error(m));
            break;
        }
        if (!out) out = malloc((size_t)image->n * (size_t)side * (size_t)side * 3);
        rc = out ? draw_view(view, side, &r->image[i], out + i * side * 3, image->n * side * 3)
                 : SQ_E_NOMEM;
        if (rc) code = cli_fail(command, rc, "out of memory");
        free(pixels);
        free(view);
    }
    if (!code) {
        int rc = sq_image_write(path, image->n * side, side, out, text, sizeof text);
        if (rc) code = cli_fail(command, rc, text);
    }
    free(out);
    return code;
}
