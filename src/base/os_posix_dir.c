/* os_posix_dir.c: folders written as a whole: filled under a temporary name, then renamed. An old
 * folder of the name is exchanged with the new one, so that at every moment one of the two is
 * there; where the file system cannot exchange, it is moved aside first. SPDX-License-Identifier:
 * MIT */
#define _GNU_SOURCE
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static status dir_fail(const char *path, const char *verb) {
    return fail(E_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
}

bool os_is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static int remove_entry(const char *path, const struct stat *s, int type, struct FTW *at) {
    (void)s, (void)type, (void)at;
    (void)remove(path);
    return 0;
}

/* Everything below, links not followed. */
static void remove_tree(const char *path) {
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void release(folder_out *f) {
    mem_free(f->temp);
    mem_free(f->path);
    *f = (folder_out){0};
}

status folder_out_open(const char *path, folder_out *f) {
    *f = (folder_out){0};
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (os_file_exists(path) && !os_is_folder(path))
        return fail(E_IO, "%s: exists and is not a folder: give another name", path);
    f->path = mem_zalloc(n + 1);
    f->temp = mem_zalloc(n + 48);
    if (!f->path || !f->temp) {
        release(f);
        return fail(E_HOST_MEMORY, "%s: no memory to write it", path);
    }
    memcpy(f->path, path, n);
    int made = -1;
    for (int try = 0; try < 100 && made;
         try++) { /* whoever makes it owns it: two writers never share a temporary */
        snprintf(f->temp, n + 48, "%s.tmp%ld-%d", f->path, (long)getpid(), try);
        made = fault_hit() ? (errno = EIO, -1) : mkdir(f->temp, 0777);
        if (made && errno != EEXIST) break;
    }
    if (!made) return OK;
    status st = dir_fail(path, "create");
    release(f);
    return st;
}

static int exchange(const folder_out *f) {
    if (!renameat2(AT_FDCWD, f->temp, AT_FDCWD, f->path, RENAME_EXCHANGE))
        return 0; /* temp is the old one now */
    if (errno != EINVAL && errno != ENOSYS) return -1;
    char aside[4096];
    int n = snprintf(aside, sizeof aside, "%s-old", f->temp);
    if (n < 0 || n >= (int)sizeof aside) return errno = ENAMETOOLONG, -1;
    if (rename(f->path, aside)) return -1;
    if (!rename(f->temp, f->path)) return rename(aside, f->temp);
    int kept = errno;
    (void)!rename(aside, f->path);
    return errno = kept, -1;
}

status folder_out_commit(folder_out *f) {
    status st = OK;
    bool old = os_file_exists(f->path);
    if (fault_hit() ? (errno = EIO, true) : old ? exchange(f) != 0 : rename(f->temp, f->path) != 0)
        st = dir_fail(f->path, "rename the temporary to");
    if (st != OK || old) remove_tree(f->temp);
    release(f);
    return st;
}

void folder_out_abort(folder_out *f) {
    if (f->temp) remove_tree(f->temp);
    release(f);
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

status os_folder_list(const char *path, arena *a, const char ***names, int *n) {
    status st = OK;
    DIR *d = fault_hit() ? NULL : opendir(path);
    *names = NULL, *n = 0;
    if (!d) return dir_fail(path, "list it");
    for (int pass = 0; pass < 2 && st == OK; pass++) {
        int at = 0;
        for (const struct dirent *e; (e = readdir(d)) && (!pass || at < *n);) {
            if (e->d_name[0] == '.') continue;
            if (pass && !((*names)[at] = arena_printf(a, "%s", e->d_name))) st = E_HOST_MEMORY;
            at++;
        }
        *n = at;
        if (!pass && !(*names = arena_new(a, const char *, MAX(at, 1)))) st = E_HOST_MEMORY;
        rewinddir(d);
    }
    closedir(d);
    if (st != OK) return fail(st, "%s: no memory to list it", path);
    qsort(*names, (size_t)*n, sizeof **names, by_bytes);
    return OK;
}
