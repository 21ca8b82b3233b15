#define _GNU_SOURCE
#include "core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_map_open(file_map *m, const char *path, sq_error *err)
{
    static const unsigned char empty;
    *m = (file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, SQ_E_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    int rc = SQ_OK;
    if (fstat(fd, &st)) {
        rc = error_set(err, SQ_E_IO, "%s: cannot read: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = error_set(err, SQ_E_IO, "%s: not a regular file", path);
    } else if (st.st_size == 0) {
        m->data = &empty;
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            rc = error_set(err, SQ_E_IO, "%s: cannot map: %s", path, strerror(errno));
        } else {
            m->data = p;
            m->size = (size_t)st.st_size;
        }
    }
    close(fd);
    return rc;
}

void file_map_close(file_map *m)
{
    if (m->size) munmap((void *)(size_t)m->data, m->size);
    *m = (file_map){0};
}

void file_map_drop(const void *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t first = ((size_t)p + page - 1) / page * page, last = ((size_t)p + n) / page * page;
    if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int file_check_regular(const char *path, sq_error *err)
{
    struct stat st;
    if (stat(path, &st) || S_ISREG(st.st_mode)) return SQ_OK;
    return error_set(err, SQ_E_IO, "%s: not a regular file", path);
}

int path_join(char *out, size_t size, const char *dir, const char *name, sq_error *err)
{
    size_t n = strlen(dir);
    int len = snprintf(out, size, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
    if (len < 0 || (size_t)len >= size)
        return error_set(err, SQ_E_LIMIT, "%s: path too long", name);
    return SQ_OK;
}

bool path_ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), e = strlen(ending);
    return n > e && !strcmp(path + n - e, ending);
}

int file_writer_open(file_writer *w, const char *path, sq_error *err)
{
    *w = (file_writer){0};
    int n = snprintf(w->path, sizeof w->path, "%s", path);
    if (n < 0 || (size_t)n >= sizeof w->path)
        return error_set(err, SQ_E_LIMIT, "%.60s...: path too long", path);
    snprintf(w->tmp, sizeof w->tmp, "%s.tmp-%ld", w->path, (long)getpid());
    w->f = fopen(w->tmp, "wbe");
    if (!w->f) return error_set(err, SQ_E_IO, "%s: cannot create: %s", path, strerror(errno));
    return SQ_OK;
}

int file_write(file_writer *w, const void *data, size_t size, sq_error *err)
{
    if (size && fwrite(data, 1, size, w->f) != size)
        return error_set(err, SQ_E_IO, "%s: cannot write: %s", w->path, strerror(errno));
    w->written += size;
    return SQ_OK;
}

int file_writer_commit(file_writer *w, sq_error *err)
{
    int rc = SQ_OK;
    /* a flush that failed has dropped its bytes: the next one succeeds */
    if (ferror(w->f) || fflush(w->f) || fsync(fileno(w->f)))
        rc = error_set(err, SQ_E_IO, "%s: cannot write: %s", w->path, strerror(errno));
    if (fclose(w->f) && !rc)
        rc = error_set(err, SQ_E_IO, "%s: cannot write: %s", w->path, strerror(errno));
    w->f = NULL;
    if (!rc && rename(w->tmp, w->path))
        rc = error_set(err, SQ_E_IO, "%s: cannot rename into place: %s", w->path, strerror(errno));
    if (rc) unlink(w->tmp);
    return rc;
}

void file_writer_abort(file_writer *w)
{
    if (!w->f) return;
    fclose(w->f);
    unlink(w->tmp);
    w->f = NULL;
}
