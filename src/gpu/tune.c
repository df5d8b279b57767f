/* tune.c: which shader variant was measured to be fastest for a shape, on this device and
 * driver. A text file in the cache directory: a first line that names the format, then "choice
 * key" lines. A damaged file costs measuring again: lines that do not parse are skipped.
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"
#include <stdio.h>
#include <stdlib.h>

#define HEAD      "imago tuning 1\n"
#define FILE_MOST ((size_t)4 << 20)
#define ROWS_MOST 65536
#define KEY_MOST  240

static tune_row *find(const tune_table *t, const char *key) {
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->row[i].key, key) == 0) return &t->row[i];
    return NULL;
}

static bool key_valid(const char *key, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] < 32) return false;
    return n > 0 && n <= KEY_MOST;
}

/* Without memory the choice is not kept, and measured again another time. */
static void put(tune_table *t, const char *key, size_t n, int choice) {
    if (t->n == ROWS_MOST) return;
    if (t->n == t->cap) {
        int cap = t->cap ? t->cap * 2 : 64;
        tune_row *row =
            mem_realloc(t->row, (size_t)t->cap * sizeof *row, (size_t)cap * sizeof *row);
        if (!row) return;
        t->row = row;
        t->cap = cap;
    }
    char *copy = mem_alloc(n + 1);
    if (!copy) return;
    memcpy(copy, key, n);
    copy[n] = 0;
    t->row[t->n++] = (tune_row){copy, choice};
}

static void parse(tune_table *t, const char *text, const char *end) {
    size_t head = strlen(HEAD);
    if ((size_t)(end - text) < head || memcmp(text, HEAD, head) != 0) return;
    for (const char *line = text + head, *next; line < end; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) return; /* no line end: cut short */
        next = stop + 1;
        char *key = NULL;
        long choice =
            strtol(line, &key, 10); /* the text ends with a NUL, and each line here with \n */
        if (key == line || key >= stop || *key != ' ' || choice < 0 || choice > INT16_MAX) continue;
        size_t n = (size_t)(stop - key - 1);
        if (key_valid(key + 1, n)) put(t, key + 1, n, (int)choice);
    }
}

void gpu_tune_load(gpu *d) {
    char *path = gpu_cache_path(d, "tuning", "txt");
    uint8_t *data = NULL;
    size_t bytes = 0;
    if (path && os_file_exists(path)) {
        if (file_read(path, FILE_MOST, &data, &bytes) == OK)
            parse(&d->tune, (const char *)data, (const char *)data + bytes);
        else
            error_clear();
        log_debug("%s: %d measured choices", path, d->tune.n);
    }
    mem_free(data);
    mem_free(path);
}

int gpu_tune_get(gpu *d, const char *key) {
    const tune_row *r = find(&d->tune, key);
    return r ? r->choice : -1;
}

void gpu_tune_set(gpu *d, const char *key, int choice) {
    size_t n = strlen(key);
    if (choice < 0 || choice > INT16_MAX || !key_valid(key, n)) return;
    tune_row *r = find(&d->tune, key);
    if (r)
        r->choice = choice;
    else
        put(&d->tune, key, n, choice);
    d->tune.dirty = true;
}

static void save(gpu *d) {
    const tune_table *t = &d->tune;
    char *path = gpu_cache_path(d, "tuning", "txt"), *text = NULL;
    size_t most = sizeof HEAD, n = 0;
    for (int i = 0; i < t->n; i++) most += strlen(t->row[i].key) + 16;
    if (!path || !(text = mem_alloc(most))) goto out;
    n = (size_t)snprintf(text, most, "%s", HEAD);
    for (int i = 0; i < t->n; i++)
        n += (size_t)snprintf(text + n, most - n, "%d %s\n", t->row[i].choice, t->row[i].key);
    if (os_mkdir_p(d->cache_dir) != OK || file_write_atomic(path, text, n) != OK) {
        log_warn("tuning table not written: %s", error_message());
        error_clear();
    }
out:
    mem_free(text);
    mem_free(path);
}

void gpu_tune_fini(gpu *d) {
    if (d->tune.dirty) save(d);
    for (int i = 0; i < d->tune.n; i++) mem_free(d->tune.row[i].key);
    mem_free(d->tune.row);
    d->tune = (tune_table){0};
}
