/* Typed reading of JSON files on top of cJSON: every failure names the file, the key and what was
 * expected. Keys may be dotted paths: "vision_config.image_size". */
#ifndef SQ_JSON_H
#define SQ_JSON_H

#include "core/error.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct json_doc {
    cJSON *root; /* NULL when closed */
    char path[4096];
} json_doc;

/* Parses a whole file (at most max_bytes; 0 means 64 MiB). Close with json_close. */
int json_open(json_doc *d, const char *path, size_t max_bytes, sq_error *err);
void json_close(json_doc *d);

/* The item at a dotted key, or NULL when it is missing or null. */
const cJSON *json_find(const json_doc *d, const char *key);

/* Each writes *out and returns 0; a missing key leaves *out as it was (put the default there);
 * a wrong type or a value outside [min, max] is SQ_E_FORMAT. */
int json_int(const json_doc *d, const char *key, int64_t min, int64_t max, int *out, sq_error *err);
int json_float(const json_doc *d, const char *key, float *out, sq_error *err);
int json_bool(const json_doc *d, const char *key, bool *out, sq_error *err);
int json_string(const json_doc *d, const char *key, const char **out, sq_error *err);
int json_floats(const json_doc *d, const char *key, float *out, int n, sq_error *err);

#endif
