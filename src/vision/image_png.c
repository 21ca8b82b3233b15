#include "vision/image_format.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

typedef struct png_job {
    png_structp codec;
    png_infop info;
    const uint8_t *data;
    size_t size, at;
    bool cut, idat_crc_bad, pixels_started, allow_truncated;
    char message[160];
    sq_image *im;
} png_job;

static void job_error(png_structp codec, png_const_charp text)
{
    png_job *job = png_get_error_ptr(codec);
    snprintf(job->message, sizeof job->message, "%s", text);
    png_longjmp(codec, 1);
}

static void job_warning(png_structp codec, png_const_charp text)
{
    (void)codec;
    (void)text;
}

static void job_read(png_structp codec, png_bytep out, size_t n)
{
    png_job *job = png_get_io_ptr(codec);
    if (n > job->size - job->at) {
        job->cut = true;
        png_error(codec, "the file ends early");
    }
    memcpy(out, job->data + job->at, n);
    job->at += n;
}

/* Indices past the end of the palette are greys, as Pillow fills its tables. */
static void job_whole_palette(png_job *job)
{
    png_color whole[256];
    png_colorp given = NULL;
    int n = 0, size = 1 << png_get_bit_depth(job->codec, job->info);
    png_get_PLTE(job->codec, job->info, &given, &n);
    for (int i = 0; i < size; i++)
        whole[i] = i < n ? given[i] : (png_color){(png_byte)i, (png_byte)i, (png_byte)i};
    if (n < size) png_set_PLTE(job->codec, job->info, whole, size);
}

/* What Pillow's convert("RGB") leaves: palettes expanded, alpha dropped, grey repeated, the high
 * byte of 16 bits; no gamma, no profile, and tRNS without effect. */
static void job_transforms(png_job *job)
{
    png_byte type = png_get_color_type(job->codec, job->info);
    if (type == PNG_COLOR_TYPE_PALETTE) {
        job_whole_palette(job);
        png_set_palette_to_rgb(job->codec);
    }
    if (type == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(job->codec, job->info) < 8)
        png_set_expand_gray_1_2_4_to_8(job->codec);
    png_set_strip_16(job->codec);
    png_set_strip_alpha(job->codec);
    if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(job->codec);
}

/* Everything of libpng that may jump runs in here. Returns false after a jump. */
static bool job_run(png_job *job)
{
    png_structp codec = job->codec;
    if (setjmp(png_jmpbuf(codec))) return false;
    png_set_read_fn(codec, job, job_read);
    png_set_user_limits(codec, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    /* Metadata was read by png_read_chunks; libpng need not parse any of it. */
    png_set_keep_unknown_chunks(codec, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    /* A wrong IDAT checksum alone is no failure in Pillow; but then the zlib stream must be
     * complete and match its own checksum. */
    png_set_crc_action(codec, PNG_CRC_WARN_USE, PNG_CRC_WARN_DISCARD);
    png_set_benign_errors(codec, !job->idat_crc_bad);
    /* In small pieces, so that a cut-off file gives nearly all of the rows that it has. */
    if (job->allow_truncated) png_set_compression_buffer_size(codec, 64);
    png_read_info(codec, job->info);
    job_transforms(job);
    int passes = png_set_interlace_handling(codec);
    png_read_update_info(codec, job->info);
    size_t stride = (size_t)job->im->width * 3;
    if (png_get_rowbytes(codec, job->info) != stride) png_error(codec, "unexpected pixel layout");
    job->pixels_started = true;
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < job->im->height; y++)
            png_read_row(codec, job->im->rgb + (size_t)y * stride, NULL);
    return true;
}

int image_decode_png(sq_image *im, const void *data, size_t size, const char *name,
                     const image_options *opt, int *orientation, sq_error *err)
{
    *im = (sq_image){0};
    png_header h;
    TRY(png_read_chunks(&h, data, size, name, opt, err));
    png_job job = {.data = data, .size = size, .idat_crc_bad = h.idat_crc_bad, .im = im};
    job.allow_truncated = opt && opt->allow_truncated;
    TRY(image_alloc(im, (int)h.width, (int)h.height, err));
    job.codec = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, job_error, job_warning);
    if (job.codec) job.info = png_create_info_struct(job.codec);
    bool done = job.info && job_run(&job);
    bool memory = job.info != NULL;
    png_destroy_read_struct(&job.codec, &job.info, NULL);
    if (job.cut && job.pixels_started && job.allow_truncated) done = true;
    *orientation = h.orientation;
    if (done) return SQ_OK;
    image_close(im);
    if (!memory) return error_set(err, SQ_E_NOMEM, "%s: out of memory", name);
    if (job.cut)
        return error_set(err, SQ_E_FORMAT, "%s: truncated: the PNG file ends early", name);
    return error_set(err, SQ_E_FORMAT, "%s: damaged PNG: %s", name, job.message);
}
