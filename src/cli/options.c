#include "cli/cli.h"

#include "core/file.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void say(const char *command, const char *fmt, va_list args)
{
    fprintf(stderr, "squint %s: ", command);
    vfprintf(stderr, fmt, args);
}

int cli_usage(const char *command, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(command, fmt, args);
    va_end(args);
    fprintf(stderr, " (squint %s --help)\n", command);
    return EXIT_USAGE;
}

int cli_error(const char *command, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(command, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return EXIT_FAILED;
}

int cli_fail(const char *command, int status, const char *text)
{
    fprintf(stderr, "squint %s: %s\n", command, text);
    return status == SQ_E_ARG ? EXIT_USAGE : EXIT_FAILED;
}

static const cli_option *find_option(const cli_option *opt, const char *word, size_t n)
{
    for (; opt->name; opt++) {
        if (strlen(opt->name) == n && !memcmp(opt->name, word, n)) return opt;
        if (opt->alias && strlen(opt->alias) == n && !memcmp(opt->alias, word, n)) return opt;
    }
    return NULL;
}

static int parse_number(const char *command, const cli_option *o, const char *value)
{
    char *end;
    errno = 0;
    double x = strtod(value, &end);
    bool whole = o->kind == CLI_INT;
    bool good = end != value && !*end && !errno && x >= o->min && x <= o->max;
    if (whole && !(good && x == floor(x)))
        return cli_usage(command, "%s: expected a whole number from %.0f to %.0f, found \"%s\"",
                         o->name, o->min, o->max, value);
    if (!good)
        return cli_usage(command, "%s: expected a number from %g to %g, found \"%s\"", o->name,
                         o->min, o->max, value);
    if (whole)
        *(int *)o->out = (int)x;
    else
        *(float *)o->out = (float)x;
    return -1;
}

static int store(const char *command, const cli_option *o, const char *value)
{
    if (o->kind == CLI_INT || o->kind == CLI_FLOAT) return parse_number(command, o, value);
    if (o->kind == CLI_TEXT) {
        *(const char **)o->out = value;
        return -1;
    }
    cli_list *l = o->out;
    if (l->n == SQ_MAX_IMAGES)
        return cli_usage(command, "%s: at most %d", o->name, SQ_MAX_IMAGES);
    l->item[l->n++] = value;
    return -1;
}

static int add_word(const char *command, cli_list *rest, const char *word)
{
    if (!rest) return cli_usage(command, "unexpected word \"%s\"", word);
    if (rest->n == SQ_MAX_IMAGES) return cli_usage(command, "too many words");
    rest->item[rest->n++] = word;
    return -1;
}

/* argv[*i] is an option; steps over its value. */
static int parse_option(int argc, char **argv, int *i, const cli_option *opt)
{
    const char *word = argv[*i], *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    const cli_option *o = find_option(opt, word, n);
    if (!o) return cli_usage(argv[0], "unknown option \"%.*s\"", (int)n, word);
    if (o->kind == CLI_FLAG) {
        if (equals) return cli_usage(argv[0], "%s takes no value", o->name);
        *(bool *)o->out = true;
        return -1;
    }
    if (!equals && *i + 1 == argc) return cli_usage(argv[0], "%s needs a value", o->name);
    return store(argv[0], o, equals ? equals + 1 : argv[++*i]);
}

int cli_parse(int argc, char **argv, const cli_option *opt, cli_list *rest, const char *help)
{
    bool words_only = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        int rc;
        if (words_only || word[0] != '-' || !word[1]) {
            rc = add_word(argv[0], rest, word);
        } else if (!strcmp(word, "--")) {
            words_only = true;
            continue;
        } else if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            fputs(help, stdout);
            return EXIT_DONE;
        } else {
            rc = parse_option(argc, argv, &i, opt);
        }
        if (rc >= 0) return rc;
    }
    return -1;
}

int cli_split(const char *command, const char *option, const char *text, cli_list *out,
              char **hold)
{
    *out = (cli_list){0};
    *hold = malloc(strlen(text) + 1);
    if (!*hold) return cli_fail(command, SQ_E_NOMEM, "out of memory");
    strcpy(*hold, text);
    for (char *p = *hold; p;) {
        char *comma = strchr(p, ',');
        if (comma) *comma = 0;
        if (!*p) return cli_usage(command, "%s: an empty item in \"%s\"", option, text);
        if (out->n == SQ_MAX_IMAGES) return cli_usage(command, "%s: too many items", option);
        out->item[out->n++] = p;
        p = comma ? comma + 1 : NULL;
    }
    return -1;
}

int cli_check_picture(const char *command, const char *option, const char *path, bool npy)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    char folder[4096];
    if (!path_ends_with(path, ".png") && !path_ends_with(path, ".ppm") &&
        !(npy && path_ends_with(path, ".npy")))
        return cli_usage(command, "%s: expected a name ending in %s, found \"%s\"", option,
                         npy ? ".png, .ppm or .npy" : ".png or .ppm", path);
    if (!n || n >= sizeof folder) return -1; /* here or in /; too long: the writer says so */
    memcpy(folder, path, n);
    folder[n] = 0;
    if (file_is_dir(folder)) return -1;
    return cli_error(command, "%s: %s: there is no folder \"%s\"", option, path, folder);
}

bool cli_find_method(const char *name, sq_method *out)
{
    for (int i = 0; !sq_method_get(i, out); i++)
        if (!strcmp(out->name, name)) return true;
    return false;
}

/* Whether "start-layer=N ensemble=sum|min|max" lists the key key[n]. */
static bool lists_key(const char *options, const char *key, size_t n)
{
    for (const char *p = options; *p; p += strspn(p, " ")) {
        if (!strncmp(p, key, n) && p[n] == '=') return true;
        p += strcspn(p, " ");
    }
    return false;
}

int cli_check_prune_options(const char *command, const char *method, const char *text)
{
    sq_method p;
    if (!cli_find_method(method ? method : "none", &p)) return -1;
    for (const char *at = text; at && *at; at += *at == ',') {
        size_t n = strcspn(at, "=,");
        if (!lists_key(p.options, at, n))
            return cli_usage(command, "--prune-options: method \"%s\" takes %s, found \"%.*s\"",
                             p.name, *p.options ? p.options : "no options", (int)n, at);
        at += strcspn(at, ",");
    }
    return -1;
}
