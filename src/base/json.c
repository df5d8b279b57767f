/* json.c: cJSON behind caps. Files from strangers reach it (safetensors headers, configs), and
 * cJSON alone recurses 1000 deep and takes some 64 bytes per value, so depth and number of values
 * are bounded by a scan before anything is allocated. cJSON allocates through mem.c, hence text it
 * prints is freed with mem_free. SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <cjson/cJSON.h>
#include <threads.h>

#define JSON_MAX_VALUES                                                                            \
    ((size_t)2 << 20) /* a few hundred MB at worst; the largest checkpoints have 10^5 */

static once_flag once = ONCE_FLAG_INIT;
static _Thread_local bool short_of_memory; /* cJSON reports it like a syntax error */

static void *json_alloc(size_t bytes) {
    void *p = mem_alloc(bytes);
    short_of_memory |= !p;
    return p;
}

static void use_mem(void) {
    cJSON_Hooks hooks = {json_alloc, mem_free};
    cJSON_InitHooks(&hooks);
}

static status check_caps(const char *text, size_t bytes, const char *what) {
    size_t depth = 0, values = 0;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"')
            quoted = true;
        else if (c == '{' || c == '[')
            depth++, values++;
        else if ((c == '}' || c == ']') && depth)
            depth--;
        else if (c == ',')
            values++;
        if (depth > JSON_MAX_DEPTH)
            return fail(E_FORMAT, "%s: JSON nested deeper than %d at byte %zu: damaged or hostile",
                        what, JSON_MAX_DEPTH, i);
        if (values > JSON_MAX_VALUES)
            return fail(E_FORMAT, "%s: JSON with more than %zu values: damaged or hostile", what,
                        JSON_MAX_VALUES);
    }
    return OK;
}

status json_parse(const char *text, size_t bytes, const char *what, json **out) {
    *out = NULL;
    if (bytes > JSON_MAX_BYTES)
        return fail(E_FORMAT, "%s: %zu bytes of JSON, at most %zu are accepted", what, bytes,
                    JSON_MAX_BYTES);
    status st = check_caps(text, bytes, what);
    if (st != OK) return st;
    call_once(&once, use_mem);
    const char *end = NULL;
    short_of_memory = false;
    json *j = bytes ? cJSON_ParseWithLengthOpts(text, bytes, &end, 0) : NULL;
    size_t at = j ? (size_t)(end - text) : 0;
    while (j && at < bytes && memchr(" \t\r\n", text[at], 5)) at++; /* 5: a NUL may pad the end */
    if (j && at == bytes) {
        *out = j;
        return OK;
    }
    if (end && !j) at = (size_t)(end - text);
    json_free(j);
    if (short_of_memory)
        return fail(E_HOST_MEMORY, "%s: no memory for its %zu bytes of JSON", what, bytes);
    return fail(E_FORMAT, "%s: not valid JSON at byte %zu of %zu", what, at, bytes);
}

void json_free(json *j) { cJSON_Delete(j); }
