/* morph_manifest.c: many morphs in one file, a JSON object a line, in the words of FreeMorph's caption files. All lines are
 * checked before the first morph begins.
 * SPDX-License-Identifier: MIT */
#include "cli/morph.h"
#include <cjson/cJSON.h>
#include <stdio.h>

#define MAX_BYTES ((size_t)16 << 20)

/* exp_id as the name of a folder. */
static status read_id(const json *o, int number, const char *where, arena *a, const char **id) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, "exp_id");
    if (!v) *id = arena_printf(a, "%d", number);
    else if (cJSON_IsNumber(v)) *id = arena_printf(a, "%.10g", v->valuedouble);
    else if (!cJSON_IsString(v) || !v->valuestring[0] || v->valuestring[0] == '.' || strlen(v->valuestring) > 200 || strchr(v->valuestring, '/'))
        return fail(E_FORMAT, "%s: exp_id: expected a name for a folder, without '/' and not beginning with '.'", where);
    else *id = arena_printf(a, "%s", v->valuestring);
    return *id ? OK : fail(E_HOST_MEMORY, "no host memory for a manifest");
}

static status read_strings(const json *o, const char *key, const char *folder, const char *where, arena *a, const char **out, int *n) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, key), *v;
    *n = 0;
    if (!list) return OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > MORPH_MAX_PICTURES)
        return fail(E_FORMAT, "%s: %s: expected a list of at most %d strings", where, key, MORPH_MAX_PICTURES);
    cJSON_ArrayForEach(v, list) {
        if (!cJSON_IsString(v)) return fail(E_FORMAT, "%s: %s: expected strings", where, key);
        out[*n] = arena_printf(a, "%s%s", v->valuestring[0] == '/' ? "" : folder, v->valuestring);
        if (!out[(*n)++]) return fail(E_HOST_MEMORY, "no host memory for a manifest");
    }
    return OK;
}

static status read_line(const char *text, const char *where, const char *folder, int number, arena *a, manifest_line *out) {
    status st = OK;
    json *o = NULL;
    int prompts = 0;
    TRY(json_parse(text, strlen(text), where, &o));
    if (!cJSON_IsObject(o)) TRY(fail(E_FORMAT, "%s: expected a JSON object", where));
    TRY(read_id(o, number, where, a, &out->id));
    TRY(read_strings(o, "image_paths", folder, where, a, out->path, &out->n));
    TRY(read_strings(o, "prompts", "", where, a, out->prompt, &prompts));
    if (out->n < 2) TRY(fail(E_FORMAT, "%s: %d pictures in image_paths: a morph needs two or more", where, out->n));
    if (prompts && prompts != out->n) TRY(fail(E_FORMAT, "%s: %d pictures and %d prompts: give one for each", where, out->n, prompts));
out:
    json_free(o);
    return st;
}

status manifest_read(const char *path, arena *a, manifest_line **lines, int *n) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0, most = 1;
    const char *slash = strrchr(path, '/');
    const char *folder = arena_printf(a, "%.*s", slash ? (int)(slash + 1 - path) : 0, path);
    int number = 1;
    *n = 0;
    TRY(file_read(path, MAX_BYTES, &data, &bytes));
    for (size_t i = 0; i < bytes; i++) most += data[i] == '\n';
    *lines = arena_new(a, manifest_line, most);
    if (!*lines || !folder) TRY(fail(E_HOST_MEMORY, "no host memory for a manifest"));
    for (char *s = (char *)data, *end; s; s = end, number++) {
        char where[300];
        if ((end = strchr(s, '\n'))) *end++ = 0;
        if (!s[strspn(s, " \t\r")]) continue;
        snprintf(where, sizeof where, "%.250s:%d", path, number);
        TRY(read_line(s, where, folder, number, a, &(*lines)[(*n)++]));
    }
    if (!*n) TRY(fail(E_FORMAT, "%s: no morph in it: write a JSON object a line, with image_paths", path));
out:
    mem_free(data);
    return st;
}
