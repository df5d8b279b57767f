/* os_posix_file.c: reading, mapping and atomically replacing files.
 * A file is written beside its place under a temporary name, flushed to the disk, then renamed: a
 * killed run leaves the old file or the new one. A mapped file that somebody truncates raises
 * SIGBUS on access; our own writer renames and so never does that to a reader.
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IO_CHUNK ((size_t)64 << 20) /* one write call; Linux itself stops at 2 GiB */

static status io_fail(const char *path, const char *verb) {
    return fail(E_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
}

/* ---- reading ---- */
static int open_read(const char *path) {
    if (fault_hit()) return errno = EIO, -1;
    int fd;
    do fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static ssize_t read_some(int fd, void *to, size_t bytes) {
    if (fault_hit()) return errno = EIO, -1;
    ssize_t n;
    do n = read(fd, to, MIN(bytes, IO_CHUNK));
    while (n < 0 && errno == EINTR);
    return n;
}

status file_read(const char *path, size_t max_bytes, uint8_t **data, size_t *bytes) {
    status st = OK;
    uint8_t *buf = NULL;
    size_t used = 0, room = 0;
    struct stat s;
    *data = NULL, *bytes = 0;
    int fd = open_read(path);
    if (fd < 0 || fstat(fd, &s)) {
        st = io_fail(path, "read");
        goto out;
    }
    if (S_ISDIR(s.st_mode)) {
        errno = EISDIR;
        st = io_fail(path, "read");
        goto out;
    }
    /* One byte over the expected size shows the end in the same loop; pipes have size 0, grow. */
    room = S_ISREG(s.st_mode) && (uint64_t)s.st_size <= max_bytes ? (size_t)s.st_size + 1
                                                                  : (size_t)4096;
    buf = mem_alloc(room + 1);
    while (buf) {
        ssize_t n = read_some(fd, buf + used, room - used);
        if (n < 0) {
            st = io_fail(path, "read");
            goto out;
        }
        if (n == 0) break;
        used += (size_t)n;
        if (used > max_bytes || (S_ISREG(s.st_mode) && (uint64_t)s.st_size > max_bytes)) {
            st = fail(E_FORMAT, "%s: larger than the %zu bytes accepted here", path, max_bytes);
            goto out;
        }
        if (used == room) {
            uint8_t *more = mem_realloc(buf, used, room * 2 + 1);
            if (!more) mem_free(buf);
            buf = more, room *= 2;
        }
    }
    if (!buf) {
        st = fail(E_HOST_MEMORY, "%s: no memory for %zu bytes", path, room);
        goto out;
    }
    buf[used] = 0;
    *data = buf, *bytes = used;
    buf = NULL;
out:
    mem_free(buf);
    if (fd >= 0) close(fd);
    return st;
}

status file_map_open(const char *path, file_map *m) {
    status st = OK;
    struct stat s;
    *m = (file_map){0};
    int fd = open_read(path);
    if (fd < 0 || fstat(fd, &s)) {
        st = io_fail(path, "open");
        goto out;
    }
    if (!S_ISREG(s.st_mode)) {
        st = fail(E_IO, "%s: not a regular file", path);
        goto out;
    }
    if (s.st_size == 0) goto out; /* an empty mapping is an error in POSIX; an empty file is not */
    void *p = fault_hit() ? (errno = ENOMEM, MAP_FAILED)
                          : mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        st = io_fail(path, "map into memory");
        goto out;
    }
    *m = (file_map){p, (size_t)s.st_size};
out:
    if (fd >= 0) close(fd);
    return st;
}

void file_map_close(file_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (file_map){0};
}

/* Rounded inwards: the pages at both ends may hold neighbours that are in use. */
void os_pages_release(const void *data, uint64_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data;
    uintptr_t begin = (at + page - 1) / page * page, end = (at + (uintptr_t)bytes) / page * page;
    if (begin < end) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* ---- writing ---- */
status file_out_open(const char *path, file_out *f) {
    *f = (file_out){.fd = -1};
    struct stat s;
    /* rename would replace a device node or a pipe */
    if (stat(path, &s) == 0 && !S_ISREG(s.st_mode))
        return fail(E_IO, "%s: exists and is not a regular file: give another name", path);
    size_t n = strlen(path);
    f->path = mem_alloc(n + 1);
    f->temp = mem_zalloc(n + 48);
    if (!f->path || !f->temp) {
        file_out_abort(f);
        return fail(E_HOST_MEMORY, "%s: no memory to write it", path);
    }
    memcpy(f->path, path, n + 1);
    for (int try = 0; try < 100 && f->fd < 0;
         try++) { /* O_EXCL: two writers never share a temporary */
        snprintf(f->temp, n + 48, "%s.tmp%ld-%d", path, (long)getpid(), try);
        f->fd = fault_hit() ? (errno = EIO, -1)
                            : open(f->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd < 0 && errno != EEXIST && errno != EINTR) break;
    }
    if (f->fd >= 0) return OK;
    status st = io_fail(path, "create");
    f->temp[0] = 0; /* whatever has that name is not ours to remove */
    file_out_abort(f);
    return st;
}

status file_out_write(file_out *f, const void *data, size_t bytes) {
    const uint8_t *p = data;
    while (bytes) {
        ssize_t n = fault_hit() ? (errno = ENOSPC, -1) : write(f->fd, p, MIN(bytes, IO_CHUNK));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_fail(f->path, "write");
        p += n, bytes -= (size_t)n;
    }
    return OK;
}

/* The rename itself must reach the disk too. Best effort: some file systems refuse to flush a
 * directory. */
static void flush_directory(char *path) {
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
    int fd = open(slash ? (slash == path ? "/" : path) : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!fsync(fd);
    close(fd);
}

status file_out_commit(file_out *f) {
    status st = OK;
    if (fault_hit() ? (errno = EIO, true) : fsync(f->fd) != 0) st = io_fail(f->path, "flush");
    int closed = close(f->fd);
    f->fd = -1;
    if (st == OK && closed) st = io_fail(f->path, "close");
    if (st == OK && (fault_hit() ? (errno = EIO, true) : rename(f->temp, f->path) != 0))
        st = io_fail(f->path, "rename the temporary to");
    if (st == OK) {
        f->temp[0] = 0; /* nothing left to remove */
        flush_directory(f->path);
    }
    file_out_abort(f);
    return st;
}

void file_out_abort(file_out *f) {
    if (f->fd >= 0) close(f->fd);
    if (f->temp && f->temp[0]) unlink(f->temp);
    mem_free(f->temp);
    mem_free(f->path);
    *f = (file_out){.fd = -1};
}

status file_write_atomic(const char *path, const void *data, size_t bytes) {
    file_out f;
    status st = file_out_open(path, &f);
    if (st != OK) return st;
    st = file_out_write(&f, data, bytes);
    if (st == OK) return file_out_commit(&f);
    file_out_abort(&f);
    return st;
}

/* ---- paths ---- */
bool os_file_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

status os_file_remove(const char *path) {
    return unlink(path) == 0 || errno == ENOENT ? OK : io_fail(path, "remove");
}

status os_file_rename(const char *from, const char *to) {
    return rename(from, to) == 0 ? OK : io_fail(from, "rename");
}

status os_mkdir_p(const char *path) {
    size_t n = strlen(path);
    char *p = mem_alloc(n + 1);
    if (!p) return fail(E_HOST_MEMORY, "%s: no memory to make the directory", path);
    memcpy(p, path, n + 1);
    status st = OK;
    for (size_t i = 1; i <= n && st == OK; i++) {
        if (p[i] != '/' && p[i] != 0) continue;
        char c = p[i];
        struct stat s;
        p[i] = 0;
        if (fault_hit())
            errno = EIO, st = io_fail(p, "make the directory");
        else if (mkdir(p, 0777) && errno != EEXIST)
            st = io_fail(p, "make the directory");
        else if (stat(p, &s) || !S_ISDIR(s.st_mode))
            errno = ENOTDIR, st = io_fail(p, "make the directory");
        p[i] = c;
    }
    mem_free(p);
    return st;
}
