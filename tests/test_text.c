/* test_text.c: the tokenizer against transformers' ids, prompts against A1111's rules, learned
 * vocabularies against the plainest algorithm (golden/tokens.safetensors), folders of all kinds,
 * broken files, and the fault ring over every fallible step. usage: test_text tokens.safetensors
 * SPDX-License-Identifier: MIT */
#include "test.h"
#include "golden_list.h"
#include "text/text.h"

#include <math.h>

#define FOLDER "test_text_data"
#define SMALL  FOLDER "/small"
#define BOS    "<|startoftext|>"
#define EOS    "<|endoftext|>"

static void expect_golden_ids(const tokenizer *t, list want) {
    list texts = find_list("text", "text_end");
    for (int64_t i = 0; i < want.n; i++) {
        arena mem = {0};
        uint32_t *ids;
        int n;
        REQUIRE_OK(tokenizer_encode(t, (const char *)texts.items->data + list_start(texts, i),
                                    (size_t)list_length(texts, i), &mem, &ids, &n));
        REQUIRE(same_ids(want, i, ids, n));
        arena_fini(&mem);
    }
}

/* ---- ids written by hand ---- */
#define expect_ids(t, text, ...)                                                                   \
    expect_ids_(HERE, t, text, sizeof(text) - 1, (const uint32_t[]){__VA_ARGS__},                  \
                sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))
static void expect_ids_(const char *at, const tokenizer *t, const char *text, size_t bytes,
                        const uint32_t *want, size_t n_want) {
    arena mem = {0};
    uint32_t *ids;
    int n;
    REQUIRE_OK(tokenizer_encode(t, text, bytes, &mem, &ids, &n));
    if ((size_t)n != n_want || memcmp(ids, want, n_want * sizeof *ids)) {
        printf("FAIL %s: \"%s\":", at, text);
        for (int i = 0; i < n; i++) printf(" %u", ids[i]);
        printf("\n");
        exit(1);
    }
    arena_fini(&mem);
}

static void write_text(const char *folder, const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fputs(text, f) >= 0 && !fclose(f));
}

static void remove_file(const char *folder, const char *name) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
}

/* ---- the bundled vocabulary ---- */
static void test_bundled(void) {
    tokenizer *t;
    REQUIRE_OK(tokenizer_open(NULL, &t));
    REQUIRE_EQ(tokenizer_size(t), 49408);
    REQUIRE_EQ(tokenizer_max_length(t), 77);
    REQUIRE(tokenizer_bos(t) == 49406 && tokenizer_eos(t) == 49407 && tokenizer_pad(t) == 49407);
    expect_golden_ids(t, find_list("id", "id_end"));
    expect_ids(t, "a photo", 320, 1125);
    /* invalid UTF-8: U+FFFD for each maximal part, as transformers sees what Python replaced */
    const struct {
        const char *bad, *good;
    } pairs[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xe2\x82", "\xef\xbf\xbd"},
        {"\xe2\x28\xa1", "\xef\xbf\xbd(\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        arena mem = {0};
        uint32_t *a, *b;
        int n, m;
        REQUIRE_OK(tokenizer_encode(t, pairs[i].bad, strlen(pairs[i].bad), &mem, &a, &n));
        REQUIRE_OK(tokenizer_encode(t, pairs[i].good, strlen(pairs[i].good), &mem, &b, &m));
        REQUIRE(n > 0 && n == m && !memcmp(a, b, sizeof *a * (size_t)n));
        arena_fini(&mem);
    }
    tokenizer_close(t);
}

static void test_added(void) {
    tokenizer *t;
    uint32_t first;
    REQUIRE_OK(tokenizer_open(NULL, &t));
    REQUIRE_OK(tokenizer_add(t, "<s1>", 1, &first));
    REQUIRE_EQ(first, 49408);
    REQUIRE_OK(tokenizer_add(t, "<S1>x", 3, &first));
    REQUIRE_EQ(first, 49409);
    REQUIRE_OK(tokenizer_add(t, "\xc3\x89*", 1, &first));
    REQUIRE_EQ(first, 49412);
    REQUIRE_EQ(tokenizer_size(t), 49408);
    expect_ids(t, "a <s1> b", 320, 49408, 321);
    expect_ids(t, "a<S1>b", 320, 49408, 321);
    expect_ids(t, "<s1>x", 49409, 49410, 49411); /* the longest */
    expect_ids(t, "<s1> x<s1", 49408, 343, 283, 338, 272);
    expect_ids(t, "\xc3\xa9* e\xcc\x81*", 49412, 49412); /* matched after NFC and lower case */
    REQUIRE_EQ(tokenizer_add(t, "<s1>", 1, &first), E_USAGE);
    REQUIRE_EQ(tokenizer_add(t, "", 1, &first), E_USAGE);
    REQUIRE_EQ(tokenizer_add(t, "<many>", 2000000, &first), E_USAGE);
    tokenizer_set_pad(t, 0);
    REQUIRE_EQ(tokenizer_pad(t), 0);
    expect_ids(t, "!", 256);
    tokenizer_close(t);
}

/* ---- a learned vocabulary, which the tests of folders use as well ---- */
static int learn_small(int size, const char *folder, bool backwards, status *st) {
    list l = find_list("learn", "learn_end");
    bpe_sample sample[64];
    char text[64][200];
    int learned = 0;
    REQUIRE(l.n <= 64);
    for (int64_t i = 0; i < l.n; i++) {
        int64_t from = backwards ? l.n - 1 - i : i, bytes = list_length(l, from);
        REQUIRE(bytes < 200);
        memcpy(text[i], (const char *)l.items->data + list_start(l, from), (size_t)bytes);
        text[i][bytes] = 0;
        sample[i] = (bpe_sample){text[i], number(find("learn_count"), from)};
    }
    *st = bpe_train(sample, (int)l.n, size, folder, &learned);
    return learned;
}

static void test_learning(void) {
    tokenizer *t;
    uint8_t *data;
    size_t bytes;
    status st;
    REQUIRE_EQ(learn_small(580, SMALL, false, &st), 580);
    REQUIRE_OK(st);
    REQUIRE_OK(file_read(SMALL "/merges.txt", 1 << 20, &data, &bytes));
    const safetensor *want = find("learned");
    REQUIRE(bytes == (size_t)safetensor_count(want) && !memcmp(data, want->data, bytes));
    mem_free(data);
    REQUIRE_OK(tokenizer_open(SMALL, &t));
    REQUIRE_EQ(tokenizer_size(t), 580);
    REQUIRE(tokenizer_bos(t) == 578 && tokenizer_eos(t) == 579 && tokenizer_pad(t) == 579);
    expect_golden_ids(t, find_list("small_id", "small_id_end"));
    tokenizer_close(t);
    REQUIRE_EQ(learn_small(580, FOLDER "/again", true, &st), 580);
    REQUIRE_OK(file_read(FOLDER "/again/merges.txt", 1 << 20, &data, &bytes));
    REQUIRE(bytes == (size_t)safetensor_count(want) && !memcmp(data, want->data, bytes));
    mem_free(data);
    REQUIRE_EQ(learn_small(5000, FOLDER "/again", false, &st),
               atoi(safetensors_find_note(golden, "all_size")));
    REQUIRE_OK(st);
    REQUIRE_OK(tokenizer_open(FOLDER "/again", &t));
    arena mem = {0};
    uint32_t *ids;
    int n; /* whole words are one id each, once everything is learned */
    REQUIRE_OK(tokenizer_encode(t, "A glossy 3D teapot", 18, &mem, &ids, &n));
    REQUIRE_EQ(n, 5);
    arena_fini(&mem);
    tokenizer_close(t);
    learn_small(513, FOLDER "/again", false, &st);
    REQUIRE_EQ(st, E_USAGE);
    const bpe_sample huge[] = {{"ab", INT64_MAX / 8}, {"abc", INT64_MAX / 8}};
    REQUIRE_EQ(bpe_train(huge, 2, 600, FOLDER "/again", &n), E_USAGE);
}

/* ---- folders ----
 * What is expected was seen in transformers: which texts are added tokens, in which spelling. */
#define FLAG(name, text, on)                                                                       \
    "\"" name "\":{\"content\":\"" text "\",\"normalized\":" on                                    \
    ",\"lstrip\":false,\"rstrip\":false,\"single_word\":false}"

static void with_config(const char *config, const char *specials, const char *extra) {
    const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json",
                                 "added_tokens.json"};
    const char *const texts[] = {config, specials, extra};
    for (int i = 0; i < 3; i++)
        if (texts[i])
            write_text(SMALL, names[i], texts[i]);
        else
            remove_file(SMALL, names[i]);
}

static void test_folder_config(void) {
    tokenizer *t;
    const char upper[] = "<|STARTOFTEXT|>";
    arena mem = {0};
    uint32_t *ids;
    int n;
    with_config(NULL, NULL, NULL); /* CLIP's own tokens, matched as given */
    REQUIRE_OK(tokenizer_open(SMALL, &t));
    REQUIRE(tokenizer_bos(t) == 578 && tokenizer_pad(t) == 579 && tokenizer_max_length(t) == 77);
    expect_ids(t, "!" BOS, 256, 578);
    REQUIRE_OK(tokenizer_encode(t, upper, strlen(upper), &mem, &ids, &n));
    REQUIRE(n > 3);
    arena_fini(&mem);
    tokenizer_close(t);

    /* as in SD 1.5: bos in any case; eos as given, since pad, a plain string, is the same text */
    with_config("{\"model_max_length\":20,\"pad_token\":\"!\"}",
                "{" FLAG("bos_token", BOS, "true") "," FLAG("eos_token", EOS,
                                                            "true") ",\"pad_token\":\"" EOS "\"}",
                NULL);
    REQUIRE_OK(tokenizer_open(SMALL, &t));
    REQUIRE(tokenizer_pad(t) == 579 && tokenizer_max_length(t) == 20);
    expect_ids(t, "<|STARTOFTEXT|>!", 578, 256);
    REQUIRE_OK(tokenizer_encode(t, "<|ENDOFTEXT|>", 13, &mem, &ids, &n));
    REQUIRE(n > 3);
    arena_fini(&mem);
    tokenizer_close(t);

    with_config("{\"model_max_length\":1000000000000000019884624838656}", "{\"pad_token\":\"!\"}",
                NULL); /* SD 2 */
    REQUIRE_OK(tokenizer_open(SMALL, &t));
    REQUIRE(tokenizer_pad(t) == 0 && tokenizer_max_length(t) == 77);
    expect_ids(t, "!!", 0, 0); /* the padding is found in texts as well */
    tokenizer_close(t);

    with_config(NULL, "{\"pad_token\":\"<pad>\",\"additional_special_tokens\":[\"<Q>\"]}",
                "{\"<S1>\":580,\"<s2>\":581}");
    REQUIRE_OK(tokenizer_open(SMALL, &t));
    REQUIRE(tokenizer_pad(t) == 582 && tokenizer_size(t) == 584);
    expect_ids(t, "<s1><S2><pad><Q>", 580, 581, 582, 583);
    tokenizer_close(t);

    with_config("{\"added_tokens_decoder\":{\"578\":{\"content\":\"" BOS
                "\",\"normalized\":true},\"580\":{\"content\":\"<S1>\","
                "\"normalized\":false}},\"bos_token\":\"" BOS "\"}",
                NULL, NULL);
    REQUIRE_OK(tokenizer_open(SMALL, &t));
    expect_ids(t, "<|StartOfText|><S1>", 578, 580);
    REQUIRE_EQ(tokenizer_size(t), 581);
    tokenizer_close(t);
    with_config(NULL, NULL, NULL);
}

/* The same vocabulary as tokenizer.json, in both spellings of merges. */
static void test_one_file(void) {
    static const char head[] = "{\"added_tokens\":[{\"id\":2,\"content\":\"" BOS
                               "\",\"normalized\":false},{\"id\":3,\"content\":\"" EOS
                               "\",\"normalized\":false}],\"normalizer\":{\"type\":\"Sequence\","
                               "\"normalizers\":[{\"type\":\"NFC\"},"
                               "{\"type\":\"Replace\"},{\"type\":\"Lowercase\"}]},\"model\":{"
                               "\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",";
    static const char *const merges[] = {"[\"a b</w>\"]", "[[\"a\",\"b</w>\"]]"};
    char text[2000];
    os_mkdir_p(FOLDER "/one");
    for (int i = 0; i < 2; i++) {
        tokenizer *t;
        snprintf(text, sizeof text,
                 "%s\"vocab\":{\"a\":0,\"b</w>\":1,\"" BOS "\":2,\"" EOS
                 "\":3,\"ab</w>\":4},\"merges\":%s}}",
                 head, merges[i]);
        write_text(FOLDER "/one", "tokenizer.json", text);
        REQUIRE_OK(tokenizer_open(FOLDER "/one", &t));
        REQUIRE(tokenizer_size(t) == 5 && tokenizer_eos(t) == 3);
        expect_ids(t, "AB aab" BOS "b?", 4, 0, 4, 2, 1,
                   3); /* '?' is not in the vocabulary: unk = eos */
        tokenizer_close(t);
    }
    tokenizer *t;
    write_text(FOLDER "/one", "tokenizer.json", "{\"model\":{\"type\":\"Unigram\"}}");
    REQUIRE_EQ(tokenizer_open(FOLDER "/one", &t), E_UNSUPPORTED);
    write_text(FOLDER "/one", "tokenizer.json",
               "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}}");
    REQUIRE_EQ(tokenizer_open(FOLDER "/one", &t), E_UNSUPPORTED);
    REQUIRE(strstr(error_message(), "normalizer"));
}

static void test_broken(void) {
    static const struct {
        const char *vocab, *merges, *config;
        status st;
        const char *says;
    } cases[] = {
        {"{", "", NULL, E_FORMAT, "vocab.json: not valid JSON"},
        {"[1]", "", NULL, E_FORMAT, "expected a JSON object"},
        {"{}", "", NULL, E_FORMAT, "the vocabulary is empty"},
        {"{\"a\":-1}", "", NULL, E_FORMAT, "the id of a must be a whole number"},
        {"{\"a\":1.5}", "", NULL, E_FORMAT, "whole number"},
        {"{\"a\":1048576}", "", NULL, E_FORMAT, "below 1048576"},
        {"{\"a\":1e999}", "", NULL, E_FORMAT, "whole number"},
        {"{\"a\":\"b\"}", "", NULL, E_FORMAT, "whole number"},
        {"{\"a\":0,\"b\":1,\"ab\":2}", "#version: 0.2\na b\n", NULL, E_UNSUPPORTED,
         "not a CLIP vocabulary"},
        {"{\"a\":0,\"b</w>\":1}", "#version: 0.2\n\na b</w>\n", NULL, E_FORMAT,
         "merge 3 joins \"a\" and \"b</w>\": what comes of it"},
        {"{\"a\":0,\"b</w>\":1}", "c a\n", NULL, E_FORMAT, "the first is not in the vocabulary"},
        {"{\"a\":0,\"b</w>\":1}", "a c\n", NULL, E_FORMAT, "the second is not in the vocabulary"},
        {"{\"a\":0,\"b</w>\":1}", "ab\n", NULL, E_FORMAT, "merges.txt: line 1 is \"ab\""},
        {"{\"a\":0,\"b</w>\":1}", "a b c\n", NULL, E_FORMAT, "line 1"},
        {"{\"a\":0,\"b</w>\":1}", "a \n", NULL, E_FORMAT, "line 1"},
        {"{\"a\":0,\"b</w>\":1}", "", "{\"pad_token\":7}", E_FORMAT, "pad_token must be a text"},
        {"{\"a\":0,\"b</w>\":1}", "", "{\"bos_token\":{\"content\":\"\"}}", E_FORMAT, "bos_token"},
        {"{\"a\":0,\"b</w>\":1}", "", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"c\"}}}",
         E_FORMAT, "x is no id"},
        {"{\"a\":0,\"b</w>\":1}", "",
         "{\"added_tokens_decoder\":{\"99999999999\":{\"content\":\"c\"}}}", E_FORMAT, "is no id"},
        {"{\"a\":0,\"b</w>\":1}", "", "{\"added_tokens_decoder\":{\"2\":{}}}", E_FORMAT,
         "without content"},
        {"{\"a\":0,\"b</w>\":1}", "",
         "{\"added_tokens_decoder\":{\"2\":{\"content\":\"c\",\"single_word\":true}}}",
         E_UNSUPPORTED, "single_word"},
        {"{\"a\":0,\"b</w>\":1048575}", "", NULL, E_FORMAT, "too many added tokens"},
    };
    const char *folder = FOLDER "/broken";
    os_mkdir_p(folder);
    tokenizer *t;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        write_text(folder, "vocab.json", cases[i].vocab);
        write_text(folder, "merges.txt", cases[i].merges);
        write_text(folder, "tokenizer_config.json", cases[i].config ? cases[i].config : "{}");
        error_clear();
        status st = tokenizer_open(folder, &t);
        if (st != cases[i].st || t || !strstr(error_message(), cases[i].says) ||
            strchr(error_message(), '\n'))
            printf("FAIL: case %zu: %s, \"%s\", expected \"%s\"\n", i, status_name(st),
                   error_message(), cases[i].says),
                exit(1);
    }
    remove_file(folder, "vocab.json");
    REQUIRE_EQ(tokenizer_open(folder, &t), E_IO);
    write_text(folder, "spiece.model", "x");
    REQUIRE_EQ(tokenizer_open(folder, &t), E_UNSUPPORTED);
    remove_file(folder, "spiece.model");
    REQUIRE_EQ(tokenizer_open(FOLDER "/none", &t), E_IO);
}

/* ---- prompts ---- */
static void expect_prompt(const tokenizer *t, const char *prompt, const safetensor *ids,
                          const safetensor *weights, list chunks, int64_t first, int64_t n) {
    arena mem = {0};
    prompt_tokens p;
    REQUIRE_OK(prompt_tokenize(t, prompt, &(prompt_options){0}, &mem, &p));
    bool same = p.n_chunks == n && p.length == 77;
    for (int64_t k = 0; k < n && same; k++) {
        const uint32_t *row = p.ids + k * 77;
        const float *weight = p.weight + k * 77;
        int64_t length = list_length(chunks, first + k), at = list_start(chunks, first + k);
        same = row[0] == tokenizer_bos(t) && weight[0] == 1;
        for (int64_t i = 0; i < length && same; i++)
            same = row[i + 1] == number(ids, at + i) &&
                   fabs(weight[i + 1] - safetensor_load(weights, at + i)) < 1e-6;
        for (int64_t i = length + 1; i < 77 && same; i++)
            same =
                row[i] == (i == length + 1 ? tokenizer_eos(t) : tokenizer_pad(t)) && weight[i] == 1;
    }
    if (!same)
        printf("FAIL: the prompt \"%s\": %d chunks, expected %lld\n", prompt, p.n_chunks,
               (long long)n),
            exit(1);
    arena_fini(&mem);
}

static void test_golden_prompts(void) {
    tokenizer *t;
    REQUIRE_OK(tokenizer_open(NULL, &t));
    tokenizer_set_pad(t, 0);
    list prompts = find_list("prompt", "prompt_end");
    list ends = {find("chunk_end"), find("chunk_end"), prompts.n},
         chunks = {find("chunk_id"), find("chunk"), 0};
    for (int64_t i = 0; i < prompts.n; i++) {
        int64_t bytes = list_length(prompts, i);
        char *prompt = calloc((size_t)bytes + 1, 1);
        memcpy(prompt, (const char *)prompts.items->data + list_start(prompts, i), (size_t)bytes);
        expect_prompt(t, prompt, chunks.items, find("chunk_weight"), chunks, list_start(ends, i),
                      list_length(ends, i));
        free(prompt);
    }
    tokenizer_close(t);
}

/* "a 1, cat 1.1": the ids of one chunk by their text would need a decoder: here a vocabulary of
 * letters serves. */
static void expect_weights(const tokenizer *t, const char *prompt, const char *want) {
    arena mem = {0};
    prompt_tokens p;
    char got[1000] = "";
    REQUIRE_OK(prompt_tokenize(t, prompt, &(prompt_options){0}, &mem, &p));
    for (int i = 0; i < p.n_chunks * p.length; i++) {
        uint32_t id = p.ids[i];
        size_t n = strlen(got);
        if (id == tokenizer_bos(t))
            snprintf(got + n, sizeof got - n, "%s", i ? "|" : "");
        else if (id < 512) /* the symbols of bytes: '!' is the first */
            snprintf(got + n, sizeof got - n, "%c%.4g ", (char)('!' + id % 256), p.weight[i]);
    }
    if (strcmp(got, want))
        printf("FAIL: \"%s\": \"%s\", expected \"%s\"\n", prompt, got, want), exit(1);
    arena_fini(&mem);
}

/* What A1111 documents, with single letters for words. */
static void test_syntax(void) {
    tokenizer *t;
    arena mem = {0};
    prompt_tokens p;
    const bpe_sample none = {"a", 1};
    int learned;
    REQUIRE_OK(bpe_train(&none, 1, 514, FOLDER "/bytes", &learned));
    REQUIRE_OK(tokenizer_open(FOLDER "/bytes", &t));
    expect_weights(t, "a b", "a1 b1 ");
    expect_weights(t, "a (b) c", "a1 b1.1 c1 ");
    expect_weights(t, "(a", "a1.1 ");
    expect_weights(t, "\\(a\\]", "(1 a1 ]1 ");
    expect_weights(t, "(a)(b)", "a1.1 b1.1 ");
    expect_weights(t, "a (((b:1.3)) [c] d (e:0.5), f, (((g))).",
                   "a1 b1.573 c1 d1.1 e0.55 ,1.1 f1.1 ,1.1 g1.464 .1.1 ");
    expect_weights(t, "[a] (b:-2) (c: +.5 )", "a0.9091 b-2 c0.5 ");
    expect_weights(t, "a:1.2) b)", "a1 :1 11 .1 21 )1 b1 )1 ");
    expect_weights(t, "\\\\ \\a", "\\1 a1 ");
    expect_weights(t, "a BREAK b", "a1 |b1 ");
    expect_weights(t, "BREAK a BREAK", "|a1 ");
    expect_weights(t, "(a BREAK b:2)", "a2 b-2 r-2 e-2 a-2 k-2 b2 ");
    expect_weights(t, "", "");
    const struct {
        const char *prompt, *says;
    } bad[] = {{"(a:1.2.3)", "the weight \"1.2.3\""},
               {"(a:.)", "the weight"},
               {"(a:+.)", "the weight"},
               {"(((((a:99999999)"
                ":99999999):99999999):99999999):99999999)",
                "multiply to more"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        REQUIRE_EQ(prompt_tokenize(t, bad[i].prompt, &(prompt_options){0}, &mem, &p), E_USAGE);
        REQUIRE(strstr(error_message(), bad[i].says));
    }
    char brackets[300];
    memset(brackets, '(', sizeof brackets);
    brackets[256] = 0;
    REQUIRE_OK(prompt_tokenize(t, brackets, &(prompt_options){0}, &mem, &p));
    brackets[256] = '(', brackets[299] = 0;
    REQUIRE_EQ(prompt_tokenize(t, brackets, &(prompt_options){0}, &mem, &p), E_USAGE);
    arena_fini(&mem);
    tokenizer_close(t);
}

static void test_options(void) {
    tokenizer *t;
    arena mem = {0};
    prompt_tokens p;
    uint32_t first;
    char text[1000] = "";
    REQUIRE_OK(tokenizer_open(NULL, &t));
    REQUIRE_OK(prompt_tokenize(t, "(a BREAK b:2)", &(prompt_options){.plain = true}, &mem, &p));
    REQUIRE(p.n_chunks == 1 && p.ids[1] == 263 && p.ids[2] == 320 && p.ids[3] == 2568 &&
            p.weight[2] == 1);
    REQUIRE_OK(prompt_tokenize(t, "a BREAK (b:2)",
                               &(prompt_options){.truncate = true, .min_chunks = 2}, &mem, &p));
    REQUIRE(p.n_chunks == 2 && p.ids[1] == 320 && p.ids[2] == 321 && p.weight[2] == 2 &&
            p.ids[3] == 49407);
    REQUIRE(p.ids[77] == 49406 && p.ids[78] == 49407 && p.weight[77] == 1);
    for (int i = 0; i < 100; i++) strcat(text, i == 70 ? ", " : "b ");
    REQUIRE_OK(prompt_tokenize(t, text, &(prompt_options){.truncate = true}, &mem, &p));
    REQUIRE(p.n_chunks == 1 && p.ids[75] == 321 && p.ids[76] == 49407);
    REQUIRE_OK(prompt_tokenize(t, text, &(prompt_options){0}, &mem, &p));
    REQUIRE(p.n_chunks == 2 && p.ids[71] == 267 && p.ids[72] == 49407 && p.ids[77 + 29] == 321 &&
            p.ids[77 + 30] == 49407);
    /* ten vectors of one placeholder stay together: 70 + 10 do not fit */
    REQUIRE_OK(tokenizer_add(t, "<ten>", 10, &first));
    REQUIRE_OK(tokenizer_add(t, "<many>", 100, &first));
    text[70 * 2] = 0;
    strcat(text, "<ten>");
    REQUIRE_OK(prompt_tokenize(t, text, &(prompt_options){0}, &mem, &p));
    REQUIRE(p.n_chunks == 2 && p.ids[70] == 321 && p.ids[71] == 49407 && p.ids[78] == 49408 &&
            p.ids[87] == 49417);
    REQUIRE_OK(prompt_tokenize(t, "<many>", &(prompt_options){0}, &mem, &p));
    REQUIRE(p.n_chunks == 2 && p.ids[1] == first && p.ids[75] == first + 74 &&
            p.ids[78] == first + 75);
    arena_fini(&mem);
    tokenizer_close(t);
}

/* ---- a megabyte of what would be slow: quadratic time would run into the test's limit ---- */
static void test_long(void) {
    static const char *const units[] = {
        "a",      "ab", "a b ", "!", "\xcc\x81\xcc\xa3", "<", "<|endoftext|>", "(a:1)", "[", ",",
        "BREAK ", " ",  "\\",   ": "};
    const size_t bytes = 1 << 20;
    char *text = malloc(bytes + 1);
    tokenizer *t;
    uint32_t first;
    REQUIRE_OK(tokenizer_open(NULL, &t));
    for (int i = 0; i < 50; i++) {
        char name[20];
        snprintf(name, sizeof name, "<s%d>", i);
        REQUIRE_OK(tokenizer_add(t, name, 1, &first));
    }
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        arena mem = {0};
        uint32_t *ids;
        int n;
        prompt_tokens p;
        size_t k = strlen(units[i]);
        for (size_t at = 0; at < bytes; at++) text[at] = units[i][at % k];
        text[bytes / k * k] = 0;
        double start = os_seconds();
        REQUIRE_OK(tokenizer_encode(t, text, bytes / k * k, &mem, &ids, &n));
        double mid = os_seconds();
        status st = prompt_tokenize(t, text, &(prompt_options){0}, &mem, &p);
        REQUIRE(st == OK || (st == E_USAGE && *text == '['));
        printf("1 MB of \"%s\": %d ids, %.0f ms; as a prompt %.0f ms\n", units[i], n,
               1e3 * (mid - start), 1e3 * (os_seconds() - mid));
        arena_fini(&mem);
    }
    free(text);
    tokenizer_close(t);
}

/* ---- the fault ring ---- */
static status open_bundled(void) {
    tokenizer *t;
    uint32_t first;
    status st = tokenizer_open(NULL, &t);
    if (st == OK) st = tokenizer_add(t, "<S1>", 2, &first);
    tokenizer_close(t);
    return st;
}

static status open_small(void) {
    tokenizer *t;
    status st = tokenizer_open(FOLDER "/bytes", &t);
    tokenizer_close(t);
    return st;
}

static tokenizer *shared;
static status one_prompt(void) {
    arena mem = {0};
    prompt_tokens p;
    status st = prompt_tokenize(shared, "a (cat:1.2), e\xcc\xa3\xcc\x81 BREAK [x] <s1>",
                                &(prompt_options){.min_chunks = 3}, &mem, &p);
    arena_fini(&mem);
    return st;
}

static status learn_again(void) {
    status st;
    learn_small(530, FOLDER "/fault", false, &st);
    return st;
}

static void test_faults(void) {
    status (*const calls[])(void) = {open_bundled, open_small, one_prompt, learn_again};
    REQUIRE_OK(tokenizer_open(NULL, &shared));
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        const int64_t live = mem_live();
        fault_arm(0);
        REQUIRE_OK(calls[i]());
        const int64_t steps = fault_count(), skip = 1 + steps / 3000;
        REQUIRE_EQ(mem_live(), live);
        REQUIRE(steps > 5);
        for (int64_t n = 1; n <= steps; n += skip) {
            fault_arm(n);
            status st = calls[i]();
            fault_arm(0);
            if ((st != E_HOST_MEMORY && st != E_IO) || !*error_message())
                printf("FAIL: call %zu, fault %lld of %lld: %s\n", i, (long long)n,
                       (long long)steps, status_name(st)),
                    exit(1);
            REQUIRE_EQ(mem_live(), live);
        }
        printf("faults: call %zu, %lld steps\n", i, (long long)steps);
    }
    tokenizer_close(shared);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    const int64_t live = mem_live();
    REQUIRE_OK(safetensors_open(argv[1], &golden));
    REQUIRE_OK(os_mkdir_p(FOLDER));
    test_bundled();
    test_added();
    test_learning();
    test_folder_config();
    test_one_file();
    test_broken();
    test_golden_prompts();
    test_syntax();
    test_options();
    test_long();
    test_faults();
    safetensors_close(golden);
    REQUIRE_EQ(mem_live(), live);
    printf("ok\n");
    return 0;
}
