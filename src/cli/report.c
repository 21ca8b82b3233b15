/* One answer's report as JSON for programs and as text for people. */
#include "cli/cli.h"
#include "core/utf8.h"

#include <math.h>
#include <string.h>

enum { UTF8_MAX = 4 }; /* bytes of a character; the texts end in a 0 */

void cli_json_string(FILE *f, const char *text)
{
    size_t n;
    fputc('"', f);
    for (const unsigned char *p = (const unsigned char *)text; *p; p += n ? n : 1) {
        n = utf8_size(p, UTF8_MAX);
        switch (*p) {
        case '"': fputs("\\\"", f); break;
        case '\\': fputs("\\\\", f); break;
        case '\n': fputs("\\n", f); break;
        case '\r': fputs("\\r", f); break;
        case '\t': fputs("\\t", f); break;
        default:
            if (*p < 0x20)
                fprintf(f, "\\u%04x", *p);
            else if (n)
                fwrite(p, 1, n, f);
            else
                fputs("\\ufffd", f);
        }
    }
    fputc('"', f);
}

bool cli_json_reads_as(const char *text, const char *read)
{
    size_t n;
    for (const unsigned char *p = (const unsigned char *)text; *p; p += n ? n : 1) {
        n = utf8_size(p, UTF8_MAX);
        const char *now = n ? (const char *)p : "\xef\xbf\xbd"; /* U+FFFD */
        size_t size = n ? n : 3;
        if (strncmp(read, now, size)) return false;
        read += size;
    }
    return !*read;
}

static void json_images(FILE *f, const sq_report *r, const char *const *path)
{
    fputs("  \"images\": [", f);
    for (int i = 0; i < r->n_image; i++) {
        const sq_image_report *im = &r->image[i];
        fprintf(f, "%s\n    {\"path\": ", i ? "," : "");
        cli_json_string(f, path[i]);
        fprintf(f, ", \"tokens_in\": %d, \"tokens_kept\": %d, \"grid\": %d,\n     \"kept\": [",
                im->tokens_in, im->tokens_kept, im->grid);
        for (int k = 0; k < im->tokens_kept; k++)
            fprintf(f, "%s%d", k ? ", " : "", (int)im->kept[k]);
        fputs("]}", f);
    }
    fputs(r->n_image ? "\n  ],\n" : "],\n", f);
}

static void json_ms(FILE *f, const sq_report *r)
{
    const struct {
        const char *name;
        double ms;
    } stage[] = {{"decode", r->ms.decode},     {"preprocess", r->ms.preprocess},
                 {"vision", r->ms.vision},     {"score", r->ms.score},
                 {"prune", r->ms.prune},       {"project", r->ms.project},
                 {"prefill", r->ms.prefill},   {"first_token", r->ms.first_token},
                 {"generate", r->ms.generate}, {"total", r->ms.total}};
    fputs("  \"ms\": {", f);
    for (size_t i = 0; i < sizeof stage / sizeof *stage; i++)
        fprintf(f, "%s\"%s\": %.3f", i ? ", " : "", stage[i].name, stage[i].ms);
    fputs("}\n", f);
}

void report_json(FILE *f, const sq_report *r, const char *model, const char *const *path)
{
    fputs("{\n  \"answer\": ", f);
    cli_json_string(f, r->answer);
    fputs(",\n  \"stop\": ", f);
    cli_json_string(f, r->stop);
    fputs(",\n  \"model\": ", f);
    cli_json_string(f, model);
    fputs(",\n  \"backend\": ", f);
    cli_json_string(f, r->backend);
    fputs(",\n  \"method\": ", f);
    cli_json_string(f, r->method);
    fputs(",\n", f);
    json_images(f, r, path);
    fprintf(f,
            "  \"prompt_tokens\": %d, \"cached_tokens\": %d, \"answer_tokens\": %d, "
            "\"context_tokens\": %d,\n",
            r->prompt_tokens, r->cached_tokens, r->answer_tokens, r->context_tokens);
    fprintf(f, "  \"kv_bytes\": %zu, \"peak_bytes\": %zu, \"min_gap\": ", r->kv_bytes,
            r->peak_bytes);
    fprintf(f, isfinite(r->min_gap) ? "%.5f,\n" : "null,\n", (double)r->min_gap);
    fprintf(f, "  \"device_bytes\": %zu, \"launches\": %lld, \"syncs\": %lld,\n", r->device_bytes,
            (long long)r->launches, (long long)r->syncs);
    json_ms(f, r);
    fputs("}\n", f);
}

void report_text(FILE *f, const sq_report *r)
{
    int in = 0, kept = 0;
    for (int i = 0; i < r->n_image; i++) {
        in += r->image[i].tokens_in;
        kept += r->image[i].tokens_kept;
    }
    fprintf(f, "visual tokens  %d of %d kept (%s), prompt %d, answer %d (%s), KV cache %.1f MB\n",
            kept, in, r->method, r->prompt_tokens, r->answer_tokens, r->stop,
            (double)r->kv_bytes / 1e6);
    fprintf(f,
            "milliseconds   decode %.1f, preprocess %.1f, vision %.1f, score %.2f, prune %.2f, "
            "project %.1f, prefill %.1f, first token at %.1f, total %.1f\n",
            r->ms.decode, r->ms.preprocess, r->ms.vision, r->ms.score, r->ms.prune, r->ms.project,
            r->ms.prefill, r->ms.first_token, r->ms.total);
    if (r->device_bytes)
        fprintf(f, "GPU            %lld launches, %lld waits of the host, %.1f MB at most\n",
                (long long)r->launches, (long long)r->syncs, (double)r->device_bytes / 1e6);
    fprintf(f, "ran on         %s\n", r->backend);
}

void report_cut(FILE *f, const sq_report *r)
{
    if (!strcmp(r->stop, "context full"))
        fputs("squint: warning: the answer is cut off, the context is full (--context)\n", f);
}
