/* Runs the program from outside, in a shell: what goes to stdout, what to stderr, which exit code.
 * A source that includes this defines _POSIX_C_SOURCE 200809L first. */
#ifndef SQ_CLI_SHELL_H
#define SQ_CLI_SHELL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char tmp[64];

typedef struct result {
    int code;
    char *out, *err;
} result;

static inline char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *text = calloc(1, (size_t)n + 1);
    assert_int_equal(fread(text, 1, (size_t)n, f), n);
    fclose(f);
    return text;
}

static inline void in_tmp(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", tmp, name);
}

/* Runs a shell line in the source folder; the program is $squint, the scratch folder $T. */
static inline result shell(const char *line)
{
    char out[96], err[96], full[4096];
    in_tmp(out, sizeof out, "stdout");
    in_tmp(err, sizeof err, "stderr");
    int n = snprintf(full, sizeof full, "cd '%s' && { %s\n} >'%s' 2>'%s' </dev/null",
                     SQ_SOURCE_DIR, line, out, err);
    assert_true(n > 0 && (size_t)n < sizeof full);
    int status = system(full);
    result r = {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(out), slurp(err)};
    return r;
}

static inline void done(result *r)
{
    free(r->out);
    free(r->err);
}

static inline int count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* A mistake: this code, nothing on stdout, one line on stderr that holds `part`. */
static inline void expect_error(const char *line, int code, const char *part)
{
    result r = shell(line);
    if (r.code != code || *r.out || count_lines(r.err) != 1 || !strstr(r.err, part))
        fail_msg("%s: exit %d, stdout \"%s\", stderr \"%s\"", line, r.code, r.out, r.err);
    done(&r);
}

static inline void expect_output(const char *line, const char *out)
{
    result r = shell(line);
    if (r.code != 0 || strcmp(r.out, out))
        fail_msg("%s: exit %d, stdout \"%s\", stderr \"%s\"", line, r.code, r.out, r.err);
    done(&r);
}

static inline const cJSON *get(const cJSON *o, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!item) fail_msg("no key \"%s\"", key);
    return item;
}

static inline int set_up(void **state)
{
    (void)state;
    snprintf(tmp, sizeof tmp, "/tmp/squint-test-XXXXXX");
    return !mkdtemp(tmp) || setenv("T", tmp, 1) || setenv("squint", SQ_PROGRAM, 1);
}

static inline int tear_down(void **state)
{
    (void)state;
    char line[96];
    snprintf(line, sizeof line, "rm -rf '%s'", tmp);
    return system(line);
}

#endif
