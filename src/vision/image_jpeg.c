#include "vision/image_format.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

/* More scans than any encoder writes; a crafted file can ask for hours of work with them. */
enum { MAX_SCANS = 500, ROWS_AT_ONCE = 16 };

typedef struct jpeg_job {
    struct jpeg_decompress_struct codec;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    const uint8_t *data;
    size_t size;
    bool allow_truncated, too_many_scans, cut, rows_done;
    char message[JMSG_LENGTH_MAX];
    sq_image *im;
} jpeg_job;

static void job_error(j_common_ptr codec)
{
    jpeg_job *job = codec->client_data;
    codec->err->format_message(codec, job->message);
    longjmp(job->escape, 1);
}

/* Warnings are not failures: Pillow decodes such files too. What counts is the end of the data. */
static void job_message(j_common_ptr codec, int level)
{
    (void)codec;
    (void)level;
}

static void job_progress(j_common_ptr codec)
{
    jpeg_job *job = codec->client_data;
    if (job->codec.input_scan_number <= MAX_SCANS) return;
    job->too_many_scans = true;
    longjmp(job->escape, 1);
}

static void source_init(j_decompress_ptr codec)
{
    jpeg_job *job = codec->client_data;
    job->source.next_input_byte = job->data;
    job->source.bytes_in_buffer = job->size;
}

static boolean source_fill(j_decompress_ptr codec)
{
    static const JOCTET end[2] = {0xff, JPEG_EOI};
    jpeg_job *job = codec->client_data;
    job->cut = true;
    if (!job->allow_truncated) longjmp(job->escape, 1);
    job->source.next_input_byte = end;
    job->source.bytes_in_buffer = sizeof end;
    return TRUE;
}

static void source_skip(j_decompress_ptr codec, long n)
{
    jpeg_job *job = codec->client_data;
    if (n <= 0) return;
    size_t step = (size_t)n;
    if (step > job->source.bytes_in_buffer) step = job->source.bytes_in_buffer;
    job->source.next_input_byte += step;
    job->source.bytes_in_buffer -= step;
}

static void source_term(j_decompress_ptr codec)
{
    (void)codec;
}

/* Pillow takes every CMYK JPEG as inverted (Adobe's way) and converts without a profile; this is
 * its arithmetic. */
static void row_from_cmyk(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++, rgb += 3, cmyk += 4) {
        int k = cmyk[3];
        for (int c = 0; c < 3; c++) {
            int t = (255 - cmyk[c]) * k + 128;
            rgb[c] = (uint8_t)(k - ((t + (t >> 8)) >> 8));
        }
    }
}

static void job_rows(jpeg_job *job)
{
    j_decompress_ptr codec = &job->codec;
    size_t stride = (size_t)job->im->width * 3;
    JSAMPARRAY cmyk = NULL;
    if (codec->out_color_space == JCS_CMYK)
        cmyk = codec->mem->alloc_sarray((j_common_ptr)codec, JPOOL_IMAGE,
                                        (JDIMENSION)job->im->width * 4, 1);
    while (codec->output_scanline < codec->output_height) {
        uint8_t *at = job->im->rgb + codec->output_scanline * stride;
        if (cmyk) {
            jpeg_read_scanlines(codec, cmyk, 1);
            row_from_cmyk(at, cmyk[0], job->im->width);
            continue;
        }
        JSAMPROW rows[ROWS_AT_ONCE];
        JDIMENSION n = codec->output_height - codec->output_scanline;
        if (n > ROWS_AT_ONCE) n = ROWS_AT_ONCE;
        for (JDIMENSION i = 0; i < n; i++) rows[i] = at + i * stride;
        jpeg_read_scanlines(codec, rows, n);
    }
}

/* Everything of libjpeg that may jump runs in here. Returns false after a jump. */
static bool job_run(jpeg_job *job)
{
    j_decompress_ptr codec = &job->codec;
    if (setjmp(job->escape)) return false;
    codec->err = jpeg_std_error(&job->errors);
    job->errors.error_exit = job_error;
    job->errors.emit_message = job_message;
    codec->client_data = job;
    jpeg_create_decompress(codec);
    job->source = (struct jpeg_source_mgr){.init_source = source_init,
                                           .fill_input_buffer = source_fill,
                                           .skip_input_data = source_skip,
                                           .resync_to_restart = jpeg_resync_to_restart,
                                           .term_source = source_term};
    codec->src = &job->source;
    job->progress.progress_monitor = job_progress;
    codec->progress = &job->progress;
    jpeg_read_header(codec, TRUE);
    codec->out_color_space = codec->num_components == 4 ? JCS_CMYK : JCS_RGB;
    codec->dct_method = JDCT_ISLOW;
    jpeg_start_decompress(codec);
    if (codec->output_width != (JDIMENSION)job->im->width ||
        codec->output_height != (JDIMENSION)job->im->height) {
        snprintf(job->message, sizeof job->message, "two sizes in one file");
        return false;
    }
    job_rows(job);
    job->rows_done = true;
    jpeg_finish_decompress(codec);
    return true;
}

static int job_failure(const jpeg_job *job, const char *name, sq_error *err)
{
    if (job->too_many_scans)
        return error_set(err, SQ_E_LIMIT, "%s: JPEG with more than %d scans", name, MAX_SCANS);
    if (job->cut && !job->message[0])
        return error_set(err, SQ_E_FORMAT, "%s: truncated: the file ends inside the JPEG data",
                         name);
    int code = job->errors.msg_code == JERR_OUT_OF_MEMORY ? SQ_E_NOMEM : SQ_E_FORMAT;
    return error_set(err, code, "%s: damaged JPEG: %s", name, job->message);
}

int image_decode_jpeg(sq_image *im, const void *data, size_t size, const char *name,
                      const image_options *opt, int *orientation, sq_error *err)
{
    *im = (sq_image){0};
    jpeg_header h;
    TRY(jpeg_read_header_segments(&h, data, size, name, err));
    TRY(image_check_pixels(h.width, h.height, name, opt, err));
    TRY(image_alloc(im, h.width, h.height, err));
    jpeg_job job = {.data = data, .size = size, .im = im};
    job.allow_truncated = opt && opt->allow_truncated;
    /* Once every row is out, a missing end of the file is no failure in Pillow. */
    bool done = job_run(&job) || (job.rows_done && job.cut);
    jpeg_destroy_decompress(&job.codec);
    if (!done) {
        image_close(im);
        return job_failure(&job, name, err);
    }
    *orientation = h.orientation;
    return SQ_OK;
}
