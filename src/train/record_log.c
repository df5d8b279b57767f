/* record_log.c: train.log. A line is written when it happens, so that the file can be followed; a
 * run that goes on from a saved state first drops the lines that the state does not know, so that
 * the file reads as if nothing had happened. SPDX-License-Identifier: MIT */
#include "train/record.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct line {
    int64_t step;
    int n;
    char key[RECORD_MAX_VALUES][24];
    double value[RECORD_MAX_VALUES];
} line;
struct train_log {
    FILE *file;
    char path[1024];
    line *l;
    int64_t n, cap;
};

static status keep(train_log *l, const line *from) {
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 256;
        line *bigger = mem_realloc(l->l, sizeof *l->l * (size_t)l->cap, sizeof *l->l * (size_t)cap);
        if (!bigger) return fail(E_HOST_MEMORY, "no host memory for the log");
        l->l = bigger;
        l->cap = cap;
    }
    l->l[l->n++] = *from;
    return OK;
}

static status parse(const char *path, int number, const char *text, size_t bytes, line *out) {
    json *j = NULL;
    *out = (line){.step = -1};
    status st = json_parse(text, bytes, path, &j);
    if (st != OK) return st;
    for (const cJSON *f = j->child; f && out->n < RECORD_MAX_VALUES; f = f->next) {
        bool is_step = f->string && strcmp(f->string, "step") == 0;
        if (is_step && cJSON_IsNumber(f) && f->valuedouble >= 0 && f->valuedouble < 1e15)
            out->step = (int64_t)f->valuedouble;
        if (is_step || !f->string) continue;
        snprintf(out->key[out->n], sizeof out->key[0], "%s", f->string);
        out->value[out->n++] = cJSON_IsNumber(f) ? f->valuedouble : NAN;
    }
    json_free(j);
    if (out->step < 0)
        return fail(E_FORMAT, "%s, line %d: no \"step\": it is not a training log; move it away",
                    path, number);
    return OK;
}

/* Reads an earlier log; *end: where in data the lines to keep end. A last line without its end is
 * from a killed run. */
static status read_earlier(train_log *l, const char *data, size_t bytes, int64_t step,
                           size_t *end) {
    status st = OK;
    int number = 1;
    line one;
    for (size_t at = 0; at < bytes; number++) {
        const char *stop = memchr(data + at, '\n', bytes - at);
        if (!stop) break;
        size_t n = (size_t)(stop - data) - at;
        TRY(parse(l->path, number, data + at, n, &one));
        if (one.step > step) break;
        TRY(keep(l, &one));
        at += n + 1;
        *end = at;
    }
out:
    return st;
}

status train_log_open(const char *path, int64_t step, train_log **out) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0, end = 0;
    train_log *l = *out = mem_zalloc(sizeof *l);
    if (!l) return fail(E_HOST_MEMORY, "no host memory for the log");
    snprintf(l->path, sizeof l->path, "%s", path);
    if (os_file_exists(path) && step > 0) {
        TRY(file_read(path, (size_t)1 << 30, &data, &bytes));
        TRY(read_earlier(l, (const char *)data, bytes, step, &end));
    }
    TRY(file_write_atomic(path, data ? (const char *)data : "", end));
    if (!(l->file = fopen(path, "a"))) TRY(fail(E_IO, "cannot append to %s", path));
out:
    mem_free(data);
    if (st != OK) train_log_close(l), *out = NULL;
    return st;
}

void train_log_close(train_log *l) {
    if (!l) return;
    if (l->file) fclose(l->file);
    mem_free(l->l);
    mem_free(l);
}

status train_log_add(train_log *l, int64_t step, const record_value *v, int n) {
    line one = {.step = step, .n = n};
    fprintf(l->file, "{\"step\":%lld", (long long)step);
    for (int i = 0; i < n; i++) {
        if (isfinite(v[i].value))
            fprintf(l->file, ",\"%s\":%.7g", v[i].key, v[i].value);
        else
            fprintf(l->file, ",\"%s\":null", v[i].key);
        snprintf(one.key[i], sizeof one.key[0], "%s", v[i].key);
        one.value[i] = v[i].value;
    }
    if (fputs("}\n", l->file) < 0 || fflush(l->file) != 0)
        return fail(E_IO, "cannot write %s: is the disk full?", l->path);
    return keep(l, &one);
}

status train_log_plot(const train_log *l, const char *key, const char *path) {
    status st = OK;
    image im = {0};
    int64_t n = 0;
    double *x = mem_alloc(sizeof *x * (size_t)(l->n + 1)),
           *y = mem_alloc(sizeof *y * (size_t)(l->n + 1));
    if (!x || !y)
        TRY(fail(E_HOST_MEMORY, "no host memory for a curve of %lld points", (long long)l->n));
    for (int64_t i = 0; i < l->n; i++)
        for (int k = 0; k < l->l[i].n; k++)
            if (strcmp(l->l[i].key[k], key) == 0)
                x[n] = (double)l->l[i].step, y[n++] = l->l[i].value[k];
    TRY(plot_curve(x, y, n, &im));
    TRY(image_save_png(path, &im, NULL, 0));
out:
    image_free(&im);
    mem_free(x);
    mem_free(y);
    return st;
}
