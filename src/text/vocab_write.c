/* vocab_write.c: a vocabulary as the files of transformers' CLIPTokenizer: vocab.json, merges.txt, and what says which
 * tokens are special.
 * SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#include <stdio.h>

static status append(buffer *b, size_t *used, const char *s, size_t n) {
    status st = buffer_room(b, *used + n);
    if (st == OK && n) memcpy((char *)b->p + *used, s, n), *used += n;
    return st;
}

static status write_file(const char *folder, const char *name, const char *text, size_t bytes) {
    arena a = {0};
    char *path = arena_printf(&a, "%s/%s", folder, name);
    status st = path ? file_write_atomic(path, text, bytes) : fail(E_HOST_MEMORY, "no memory to write %s", name);
    arena_fini(&a);
    return st;
}

static status write_ids(const char *folder, const string_slot *token, uint32_t n) {
    status st = OK;
    buffer b = {0};
    size_t used = 0;
    char number[32];
    for (uint32_t id = 0; id < n; id++) {
        TRY(append(&b, &used, id ? ",\n\"" : "{\n\"", 3));
        for (const char *s = token[id].s; s < token[id].s + token[id].n; s++) {
            if (*s == '"' || *s == '\\') TRY(append(&b, &used, "\\", 1));
            TRY(append(&b, &used, s, 1));
        }
        int digits = snprintf(number, sizeof number, "\": %u", id);
        TRY(append(&b, &used, number, (size_t)digits));
    }
    TRY(append(&b, &used, "\n}\n", 3));
    TRY(write_file(folder, "vocab.json", b.p, used));
out:
    mem_free(b.p);
    return st;
}

static status write_merges(const char *folder, const char *merges, size_t bytes) {
    static const char head[] = "#version: 0.2\n";
    status st = OK;
    buffer b = {0};
    size_t used = 0;
    TRY(append(&b, &used, head, sizeof head - 1));
    TRY(append(&b, &used, merges, bytes));
    TRY(write_file(folder, "merges.txt", b.p, used));
out:
    mem_free(b.p);
    return st;
}

status vocab_write(const char *folder, const string_slot *token, uint32_t n, const char *merges, size_t merges_bytes,
                   const char *pad) {
    status st = OK;
    arena a = {0};
    const char *specials = arena_printf(&a,
                                        "  \"bos_token\": \"" CLIP_BOS "\",\n  \"eos_token\": \"" CLIP_EOS
                                        "\",\n  \"pad_token\": \"%s\",\n  \"unk_token\": \"" CLIP_EOS "\"",
                                        pad);
    const char *map = specials ? arena_printf(&a, "{\n%s\n}\n", specials) : NULL;
    const char *config = specials ? arena_printf(&a,
                                                 "{\n%s,\n  \"add_prefix_space\": false,\n  \"do_lower_case\": true,\n  \"errors\": \"replace\",\n"
                                                 "  \"model_max_length\": 77,\n  \"tokenizer_class\": \"CLIPTokenizer\"\n}\n",
                                                 specials)
                                  : NULL;
    if (!map || !config) TRY(fail(E_HOST_MEMORY, "no memory to write the vocabulary"));
    TRY(os_mkdir_p(folder));
    TRY(write_ids(folder, token, n));
    TRY(write_merges(folder, merges, merges_bytes));
    TRY(write_file(folder, "special_tokens_map.json", map, strlen(map)));
    TRY(write_file(folder, "tokenizer_config.json", config, strlen(config)));
out:
    arena_fini(&a);
    return st;
}

status tokenizer_write(const char *folder, bool pad_zero) {
    status st = OK;
    vocab v = {0};
    char *text = NULL;
    const char *merges = NULL;
    size_t bytes = 0;
    string_slot *token = NULL;
    TRY(vocab_bundled_list(&v, &text, &merges, &bytes));
    token = mem_zalloc(sizeof *token * v.size);
    if (!token) TRY(fail(E_HOST_MEMORY, "no memory to write the bundled vocabulary"));
    for (size_t i = 0; i <= v.ids.mask; i++)
        if (v.ids.slot[i].s) token[v.ids.slot[i].value] = v.ids.slot[i];
    TRY(vocab_write(folder, token, v.size, merges, bytes, pad_zero ? "!" : CLIP_EOS));
out:
    mem_free(token);
    mem_free(text);
    string_map_fini(&v.ids);
    arena_fini(&v.mem);
    return st;
}
