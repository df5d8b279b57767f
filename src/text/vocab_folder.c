/* vocab_folder.c: a tokenizer from the files of a diffusers `tokenizer/` folder. Which text is an
 * added token, and whether it is matched as given or in the normalised text, follows transformers
 * 5: added_tokens_decoder of tokenizer_config.json says it where it is there; else
 * added_tokens.json, normalised; then bos, eos, unk and pad (special_tokens_map.json before
 * tokenizer_config.json before CLIP's own), in this order: an object says it by its "normalized", a
 * plain string means as given, the last one of a text counts. lstrip and rstrip change nothing
 * here, since white space gives no ids. SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

#define FILE_MAX_BYTES ((size_t)64 << 20)
#define DEFAULT_LENGTH 77
#define LONGEST_LENGTH 65536

typedef struct source {
    const char *folder;
    json *config, *specials, *extra; /* any may be NULL: not there */
    const json *listed;              /* added_tokens of tokenizer.json, NULL = not there */
    uint8_t *merges;
    size_t merges_bytes;
    arena mem; /* paths */
} source;

static bool in_folder(source *s, const char *name, char **path) {
    *path = arena_printf(&s->mem, "%s/%s", s->folder, name);
    return *path && os_file_exists(*path);
}

static status read_json(source *s, const char *name, json **out) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0;
    char *path;
    *out = NULL;
    if (!in_folder(s, name, &path))
        return path ? OK : fail(E_HOST_MEMORY, "%s: no memory for the name of %s", s->folder, name);
    TRY(file_read(path, FILE_MAX_BYTES, &data, &bytes));
    TRY(json_parse((const char *)data, bytes, path, out));
    if (!cJSON_IsObject(*out)) st = fail(E_FORMAT, "%s: expected a JSON object", path);
out:
    mem_free(data);
    return st;
}

/* ---- vocabulary and merges ---- */
static status whole_number(const json *j, const char *what, const char *of, int64_t *out) {
    double x = cJSON_IsNumber(j) ? cJSON_GetNumberValue(j) : -1;
    if (!(x >= 0 && x < TEXT_MAX_IDS) || x != floor(x))
        return fail(E_FORMAT, "%s: the id of %.100s must be a whole number below %u", what, of,
                    TEXT_MAX_IDS);
    *out = (int64_t)x;
    return OK;
}

static status put_ids(vocab *v, const json *ids, const char *what) {
    status st = OK;
    if (!cJSON_IsObject(ids))
        return fail(E_FORMAT, "%s: the vocabulary must be an object of token: id", what);
    for (const json *j = ids->child; j; j = j->next) {
        int64_t id = 0;
        TRY(whole_number(j, what, j->string, &id));
        TRY(vocab_put(v, j->string, strlen(j->string), id, what));
    }
    if (!v->size) st = fail(E_FORMAT, "%s: the vocabulary is empty", what);
out:
    return st;
}

static status load_two_files(source *s, tokenizer *t, vocab *v) {
    status st = OK;
    char *path = arena_printf(&s->mem, "%s/merges.txt", s->folder);
    char *ids = arena_printf(&s->mem, "%s/vocab.json", s->folder);
    if (!path || !ids) return fail(E_HOST_MEMORY, "%s: no memory to open it", s->folder);
    TRY(read_json(s, "vocab.json", &v->file));
    TRY(put_ids(v, v->file, ids));
    TRY(file_read(path, FILE_MAX_BYTES, &s->merges, &s->merges_bytes));
    TRY(vocab_merge_lines(v, t, (const char *)s->merges, s->merges_bytes, TEXT_MAX_IDS, path, 1));
out:
    return st;
}

static const json *item(const json *j, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(j, name);
}

static bool is_text(const json *j, const char *want) {
    return cJSON_IsString(j) && !strcmp(j->valuestring, want);
}

/* tokenizer.json describes the steps as well: they must be those of CLIP. */
static status check_steps(const json *root, const char *what) {
    const json *model = item(root, "model"), *normal = item(root, "normalizer"),
               *suffix = item(model, "end_of_word_suffix");
    const char *const want[] = {"NFC", "Replace", "Lowercase"};
    if (!is_text(item(model, "type"), "BPE") || !is_text(suffix, WORD_END))
        return fail(E_UNSUPPORTED,
                    "%s: the model must be BPE with end_of_word_suffix %s, as CLIP has", what,
                    WORD_END);
    const json *steps = item(normal, "normalizers"), *step = steps ? steps->child : NULL;
    for (size_t i = 0; i < ARRAY_LEN(want); i++, step = step ? step->next : NULL)
        if (!is_text(item(step, "type"), want[i]))
            break;
        else if (i + 1 == ARRAY_LEN(want) && !step->next)
            return OK;
    return fail(E_UNSUPPORTED, "%s: the normalizer must be NFC, Replace, Lowercase, as CLIP's is",
                what);
}

static status load_one_file(source *s, tokenizer *t, vocab *v) {
    status st = OK;
    char *what = arena_printf(&s->mem, "%s/tokenizer.json", s->folder);
    if (!what) return fail(E_HOST_MEMORY, "%s: no memory to open it", s->folder);
    TRY(read_json(s, "tokenizer.json", &v->file));
    TRY(check_steps(v->file, what));
    const json *model = item(v->file, "model"), *merges = item(model, "merges");
    TRY(put_ids(v, item(model, "vocab"), what));
    if (!cJSON_IsArray(merges)) {
        st = fail(E_FORMAT, "%s: model.merges must be a list", what);
        goto out;
    }
    s->listed = item(v->file, "added_tokens");
    int n = 0;
    for (const json *j = merges->child; j;
         j = j->next, n++) { /* "left right", or ["left", "right"] since 2024 */
        const json *a = cJSON_IsArray(j) ? j->child : NULL, *b = a ? a->next : NULL;
        const char *gap = cJSON_IsString(j) ? strchr(j->valuestring, ' ') : NULL;
        if (gap)
            TRY(vocab_merge(v, t, j->valuestring, (size_t)(gap - j->valuestring), gap + 1,
                            strlen(gap + 1), (uint32_t)n, what, n + 1));
        else if (cJSON_IsString(a) && cJSON_IsString(b) && !b->next)
            TRY(vocab_merge(v, t, a->valuestring, strlen(a->valuestring), b->valuestring,
                            strlen(b->valuestring), (uint32_t)n, what, n + 1));
        else {
            st = fail(E_FORMAT, "%s: merge %d must be two tokens", what, n + 1);
            goto out;
        }
    }
out:
    return st;
}

/* ---- added and special tokens ---- */
static status put_described(tokenizer *t, const json *j, int64_t id, bool normalized,
                            const char *what) {
    const json *content = item(j, "content"), *flag = item(j, "normalized");
    if (!cJSON_IsString(content) || !*content->valuestring)
        return fail(E_FORMAT, "%s: an added token without content", what);
    if (cJSON_IsTrue(item(j, "single_word")))
        return fail(E_UNSUPPORTED, "%s: %.100s: single_word tokens are not supported", what,
                    content->valuestring);
    if (cJSON_IsBool(flag)) normalized = cJSON_IsTrue(flag);
    return tokenizer_put_added(t, content->valuestring, normalized, (uint32_t)id, 1);
}

static status put_listed(source *s, tokenizer *t) {
    status st = OK;
    int64_t id = 0;
    const json *decoder = item(s->config, "added_tokens_decoder");
    for (const json *j = cJSON_IsArray(s->listed) ? s->listed->child : NULL; j; j = j->next) {
        TRY(whole_number(item(j, "id"), s->folder, "an added token", &id));
        TRY(put_described(t, j, id, true, s->folder));
    }
    for (const json *j = s->extra ? s->extra->child : NULL; j; j = j->next) {
        TRY(whole_number(j, s->folder, j->string, &id));
        TRY(tokenizer_put_added(t, j->string, true, (uint32_t)id, 1));
    }
    for (const json *j = cJSON_IsObject(decoder) ? decoder->child : NULL; j; j = j->next) {
        size_t digits = strspn(j->string, "0123456789");
        id = 0;
        for (size_t i = 0; i < digits && i < 8; i++) id = id * 10 + (j->string[i] - '0');
        if (!digits || digits > 7 || j->string[digits] || id >= TEXT_MAX_IDS) {
            st = fail(E_FORMAT, "%s: added_tokens_decoder: %.100s is no id below %u", s->folder,
                      j->string, TEXT_MAX_IDS);
            goto out;
        }
        TRY(put_described(t, j, id, true, s->folder));
    }
out:
    return st;
}

/* One special token: from the vocabulary, else a new id. Its flag is known where the files list it.
 */
static status put_special(source *s, tokenizer *t, const vocab *v, const json *j, const char *text,
                          uint32_t *id) {
    const json *flag = item(j, "normalized");
    const bool listed = item(s->config, "added_tokens_decoder") || s->listed;
    const added_token *there = tokenizer_find_added(t, text);
    if (there && listed) return *id = there->first, OK;
    *id = there ? there->first : string_map_get(&v->ids, text, strlen(text));
    if (*id == NO_ID) *id = t->next_id;
    if (*id >= TEXT_MAX_IDS) return fail(E_FORMAT, "%s: too many added tokens", s->folder);
    return tokenizer_put_added(t, text, cJSON_IsTrue(flag), *id, 1);
}

static status put_specials(source *s, tokenizer *t, const vocab *v) {
    status st = OK;
    const struct {
        const char *name, *text;
        uint32_t *id;
    } kinds[] = {
        {"bos_token", "<|startoftext|>", &t->bos},
        {"eos_token", "<|endoftext|>", &t->eos},
        {"unk_token", "<|endoftext|>", &t->unk},
        {"pad_token", "<|endoftext|>", &t->pad},
    };
    uint32_t unused;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const json *j = item(s->specials, kinds[i].name);
        if (!j || cJSON_IsNull(j)) j = item(s->config, kinds[i].name);
        const json *content = cJSON_IsObject(j) ? item(j, "content") : j;
        const bool given = content && !cJSON_IsNull(content);
        if (given && (!cJSON_IsString(content) || !*content->valuestring)) {
            st = fail(E_FORMAT, "%s: %s must be a text", s->folder, kinds[i].name);
            goto out;
        }
        const char *text = given ? content->valuestring : kinds[i].text;
        TRY(put_special(s, t, v, j, text, kinds[i].id));
    }
    const json *more = item(s->specials, "additional_special_tokens");
    if (!more) more = item(s->config, "additional_special_tokens");
    for (const json *j = cJSON_IsArray(more) ? more->child : NULL; j; j = j->next) {
        const json *content = cJSON_IsObject(j) ? item(j, "content") : j;
        if (cJSON_IsString(content) && *content->valuestring &&
            !tokenizer_find_added(t, content->valuestring))
            TRY(put_special(s, t, v, j, content->valuestring, &unused));
    }
out:
    return st;
}

/* ---- all of it ---- */
static status load(source *s, tokenizer *t, vocab *v) {
    status st = OK;
    char *path;
    if (in_folder(s, "vocab.json", &path) && in_folder(s, "merges.txt", &path))
        TRY(load_two_files(s, t, v));
    else if (in_folder(s, "tokenizer.json", &path))
        TRY(load_one_file(s, t, v));
    else if (in_folder(s, "spiece.model", &path)) {
        st = fail(E_UNSUPPORTED, "%s: a SentencePiece tokenizer (spiece.model); expected CLIP's",
                  s->folder);
        goto out;
    } else {
        st = path ? fail(E_IO,
                         "%s: no tokenizer there: expected vocab.json and merges.txt, or "
                         "tokenizer.json",
                         s->folder)
                  : fail(E_HOST_MEMORY, "%s: no memory to open it", s->folder);
        goto out;
    }
    t->next_id = v->size;
    TRY(read_json(s, "tokenizer_config.json", &s->config));
    TRY(read_json(s, "special_tokens_map.json", &s->specials));
    TRY(read_json(s, "added_tokens.json", &s->extra));
    TRY(put_listed(s, t));
    TRY(put_specials(s, t, v));
    double length =
        cJSON_GetNumberValue(item(s->config, "model_max_length")); /* NaN where there is none */
    t->max_length = length >= 3 && length <= LONGEST_LENGTH ? (int)length : DEFAULT_LENGTH;
out:
    return st;
}

status vocab_folder(tokenizer *t, vocab *v, const char *folder) {
    source s = {.folder = folder};
    status st = load(&s, t, v);
    json_free(s.config), json_free(s.specials), json_free(s.extra);
    mem_free(s.merges);
    arena_fini(&s.mem);
    return st;
}
