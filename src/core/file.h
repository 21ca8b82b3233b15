/* Files: read-only maps, whole small files, and writing that leaves the old file on failure. */
#ifndef SQ_FILE_H
#define SQ_FILE_H

#include "core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct file_map {
    const unsigned char *data; /* NULL when closed; an empty file has size 0 and non-NULL data */
    size_t size;
} file_map;

/* Maps a regular file for reading. The error names the path. Close with file_map_close. */
int file_map_open(file_map *m, const char *path, sq_error *err);
void file_map_close(file_map *m);

/* Gives the pages of [p, p + n) back to the system; a later read loads them again. */
void file_map_drop(const void *p, size_t n);

bool file_exists(const char *path);
bool file_is_dir(const char *path);
/* A folder, pipe or device at path is an error; that nothing is there is none. */
int file_check_regular(const char *path, sq_error *err);

/* out = "dir/name"; SQ_E_LIMIT when it does not fit. */
int path_join(char *out, size_t size, const char *dir, const char *name, sq_error *err);

/* Whether path is more than ending (".png") and ends in it. */
bool path_ends_with(const char *path, const char *ending);

/* Writing: everything goes to "PATH.tmp-PID"; commit renames it over PATH, abort removes it. */
typedef struct file_writer {
    FILE *f;
    char path[4096], tmp[4096 + 32];
    size_t written;
} file_writer;

int file_writer_open(file_writer *w, const char *path, sq_error *err);
int file_write(file_writer *w, const void *data, size_t size, sq_error *err);
int file_writer_commit(file_writer *w, sq_error *err); /* closes in every case */
void file_writer_abort(file_writer *w);                /* fine on a closed or zeroed writer */

#endif
