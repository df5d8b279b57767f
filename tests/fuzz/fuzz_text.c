/* fuzz_text.c: a tokenizer's files and a prompt, one input cut at lines "---": vocab.json,
 * merges.txt, tokenizer_config.json, the prompt. SPDX-License-Identifier: MIT */
#include "fuzz.h"
#include "text/text.h"

#define FOLDER "fuzz_text_data"
#define CUT    "\n---\n"

static void write_part(const char *name, const char *s, size_t n) {
    FILE *f = fopen(name, "wb"); /* not file_write_atomic: it waits for the disk */
    if (!f || fwrite(s, 1, n, f) != n || fclose(f)) printf("cannot write %s\n", name), exit(1);
}

static bool use(tokenizer *t, const char *prompt) {
    arena mem = {0};
    prompt_tokens p;
    uint32_t first;
    bool good = tokenizer_add(t, "<s1>", 3, &first) == OK;
    for (int i = 0; i < 3; i++)
        good &=
            prompt_tokenize(t, prompt,
                            &(prompt_options){.plain = i == 1, .truncate = i == 2, .min_chunks = i},
                            &mem, &p) == OK;
    arena_fini(&mem);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char *const names[] = {FOLDER "/vocab.json", FOLDER "/merges.txt",
                                        FOLDER "/tokenizer_config.json"};
    char *text = malloc(bytes + 1), *s = text;
    memcpy(text, data, bytes);
    text[bytes] = 0;
    size_t files = 0;
    for (char *cut; files < ARRAY_LEN(names) && (cut = strstr(s, CUT)); s = cut + strlen(CUT))
        write_part(names[files++], s, (size_t)(cut - s));
    tokenizer *t = NULL;
    bool good = false;
    if (files && tokenizer_open(FOLDER, &t) == OK) good = use(t, s);
    tokenizer_close(t);
    free(text);
    return good;
}

#ifndef FUZZ_LIBFUZZER
int main(int argc, char **argv) {
    static const char files[] =
        "{\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"ab</w>\":4,\"aab</"
        "w>\":5,\"<|startoftext|>\":6,\"<|endoftext|>\":7}" CUT
        "#version: 0.2\na b</w>\na ab</w>" CUT
        "{\"pad_token\":{\"content\":\"b\",\"normalized\":true},\"model_max_length\":8,\"added_"
        "tokens_decoder\":"
        "{\"8\":{\"content\":\"ba\"}}}" CUT "aab (ba:1.2), ab [b] <s1> BREAK a";
    static const char small[] =
        "{\"a\":0,\"b</w>\":1,\"ab</w>\":2}" CUT "a b</w>" CUT "{}" CUT
        "((a b:1.5) [ab]) \\( \xc3\xa9 e\xcc\x81\xcc\xa3 it's <|endoftext|>";
    static const char *const words[] = {"(",
                                        ")",
                                        "[",
                                        "]",
                                        ":1.2)",
                                        ":-.5)",
                                        "\\",
                                        "BREAK",
                                        ",",
                                        "<s1>",
                                        "</w>",
                                        " ",
                                        "\n",
                                        CUT,
                                        "<|startoftext|>",
                                        "\xf0\x9f\x91\xa8",
                                        "\xcc\x81",
                                        "\"",
                                        "{",
                                        "}",
                                        "1048575",
                                        "null",
                                        "'s"};
    if (os_mkdir_p(FOLDER) != OK) return printf("%s\n", error_message()), 1;
    const fuzz_seed seeds[] = {{files, sizeof files - 1}, {small, sizeof small - 1}};
    return fuzz_main(argc, argv, seeds, ARRAY_LEN(seeds), words, ARRAY_LEN(words));
}
#endif
