/* test_weights.c: sets of weights from safetensors, shards and GGUF; every type against the gguf
 * package and against the slow conversions of base; damaged and foreign files; the fault ring.
 * usage: test_weights GOLDEN_FOLDER
 * SPDX-License-Identifier: MIT */
#include "test.h"
#include "file/file.h"
#include "file/weights.h"

#include <math.h>

#define FOLDER "test_weights_data"
#define A      FOLDER "/a.safetensors"
#define B      FOLDER "/b.safetensors"
#define INDEX  FOLDER "/model.safetensors.index.json"
#define RAW    FOLDER "/raw.bin"

static const char *golden;

static const char *golden_path(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", golden, name);
    return path;
}

/* Not file_write_atomic, whose flush costs milliseconds: thousands of files are written here. */
static void write_plain(const char *path, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(data, 1, bytes, f) == bytes);
    REQUIRE(fclose(f) == 0);
}

static status open_one(const char *path, weights **w) { return weights_open(&path, 1, w); }

static void expect_open(const char *const *paths, int n, status want, const char *says) {
    weights *w;
    int64_t before = mem_live();
    status st = weights_open(paths, n, &w);
    if (st != want || (st != OK && (w || !strstr(error_message(), says))))
        printf("FAIL: got %s (%s), expected %s with \"%s\"\n", status_name(st),
               st ? error_message() : "", status_name(want), says),
            exit(1);
    weights_close(w);
    REQUIRE_EQ(mem_live(), before);
}

/* ---- conversions ---- */
static bool same_or_nan(uint32_t a, uint32_t b, uint32_t infinity) {
    uint32_t mask = infinity == 0x7f800000u ? 0x7fffffffu : 0x7fffu;
    return a == b || ((a & mask) > infinity && (b & mask) > infinity);
}

/* Every 16-bit pattern through every pair of types, against base/half.c. */
static void test_halves(void) {
    enum { N = 65536 };
    uint16_t *in = mem_alloc(N * 2), *out = mem_alloc(N * 2);
    float *wide = mem_alloc(N * 4);
    REQUIRE(in && out && wide);
    for (int i = 0; i < N; i++) in[i] = (uint16_t)i;
    for (int from = 0; from < 2; from++) {
        bool finite = true;
        weight w = {.name = "w",
                    .type = from ? "BF16" : "F16",
                    .n_dims = 1,
                    .dim = {N},
                    .count = N,
                    .data = in,
                    .bytes = N * 2};
        REQUIRE_OK(weight_read(&w, 0, N, DT_F32, wide, &finite));
        REQUIRE(!finite);
        for (int i = 0; i < N; i++) {
            float f = from ? bf16_to_f32(in[i]) : f16_to_f32(in[i]);
            uint32_t a, b;
            memcpy(&a, &f, 4), memcpy(&b, &wide[i], 4);
            REQUIRE(same_or_nan(a, b, 0x7f800000u));
        }
        for (dtype to = DT_F16; to <= DT_BF16; to++) {
            REQUIRE_OK(weight_read(&w, 0, N, to, out, NULL));
            for (int i = 0; i < N; i++) {
                float f = from ? bf16_to_f32(in[i]) : f16_to_f32(in[i]);
                REQUIRE(same_or_nan(to == DT_F16 ? f32_to_f16(f) : f32_to_bf16(f), out[i],
                                    to == DT_F16 ? 0x7c00u : 0x7f80u));
            }
        }
        finite = true;
        REQUIRE_OK(
            weight_read(&w, 0, 0x7c00, DT_F32, wide, &finite)); /* all positive finite halves */
        REQUIRE(finite);
    }
    mem_free(wide);
    mem_free(out);
    mem_free(in);
}

/* finite is about what comes out, in any block and at any place, and is never set. */
static void test_finite(void) {
    enum { N = 2000 };
    static float x[N], out[N];
    static const int places[] = {0, 1, 511, 512, 1023, 1999};
    static const float bad[] = {INFINITY, -INFINITY, NAN, 70000};
    weight w = {.name = "w",
                .type = "F32",
                .dtype = DT_F32,
                .n_dims = 1,
                .dim = {N},
                .count = N,
                .data = x,
                .bytes = sizeof x};
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        for (size_t k = 0; k < ARRAY_LEN(bad); k++)
            for (dtype to = DT_F32; to <= DT_BF16; to++) {
                bool finite = true;
                x[places[i]] = bad[k];
                REQUIRE_OK(weight_read(&w, 0, N, to, out, &finite));
                REQUIRE_EQ(finite, bad[k] == 70000 && to != DT_F16);
                x[places[i]] = 1;
                finite = false;
                REQUIRE_OK(weight_read(&w, 0, N, to, out, &finite));
                REQUIRE(!finite);
                finite = true;
                REQUIRE_OK(weight_read(&w, 0, N, to, out, &finite));
                REQUIRE(finite);
            }
}

/* ---- GGUF ---- */
static void expect_values(const weight *w, const safetensor *want) {
    float out[512];
    uint16_t half[512];
    const float *v = want->data;
    int step = w->count % 32 ? 1 : 32;
    REQUIRE(w->count <= 512 && w->count == safetensor_count(want) && w->n_dims == want->n_dims);
    REQUIRE(!memcmp(w->dim, want->dim, sizeof want->dim));
    REQUIRE_OK(weight_read(w, 0, w->count, DT_F32, out, NULL));
    for (int64_t i = 0; i < w->count; i++)
        if (out[i] != v[i])
            printf("FAIL %s[%lld]: %.9g, expected %.9g\n", w->name, (long long)i, out[i], v[i]),
                exit(1);
    for (int64_t begin = 0; begin < w->count;
         begin += step) { /* from every place that a read may begin */
        memset(out, 0xff, sizeof out);
        REQUIRE_OK(weight_read(w, begin, w->count - begin, DT_F32, out, NULL));
        REQUIRE(!memcmp(out, v + begin, (size_t)(w->count - begin) * 4));
        REQUIRE_OK(weight_read(w, begin, step, DT_BF16, half, NULL));
        for (int i = 0; i < step; i++) REQUIRE_EQ(half[i], f32_to_bf16(v[begin + i]));
        REQUIRE_OK(weight_read(w, begin, step, DT_F16, half, NULL));
        for (int i = 0; i < step; i++) REQUIRE_EQ(half[i], f32_to_f16(v[begin + i]));
    }
}

static void expect_gguf(weights *w, const safetensors *want) {
    REQUIRE_EQ(weights_count(w), want->n);
    for (int64_t i = 0; i < want->n; i++) {
        const weight *t = weights_find(w, want->tensor[i].name);
        REQUIRE(t && !strcmp(weights_at(w, i)->name, t->name)); /* both sorted */
        expect_values(t, &want->tensor[i]);
    }
}

static void test_gguf(void) {
    weights *w;
    safetensors *want;
    char text[64];
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(safetensors_open(golden_path("gguf.safetensors"), &want));
    REQUIRE_OK(open_one(golden_path("small.gguf"), &w));
    expect_gguf(w, want);
    REQUIRE(!strcmp(weights_note(w, "general.architecture"), "sd1") &&
            !strcmp(weights_note(w, "general.name"), "caf\xc3\xa9"));
    REQUIRE(!weights_note(w, "answer") && !weights_note(w, "none"));
    REQUIRE(!strcmp(weight_describe(weights_find(w, "q4_1"), text, sizeof text), "Q4_1[3, 64]"));
    REQUIRE(!strcmp(weight_describe(weights_find(w, "fold.weight"), text, sizeof text),
                    "Q8_0[4, 2, 2, 4]"));
    REQUIRE(!strcmp(weight_describe(weights_find(w, "f32"), text, 7), "F32[2,"));
    REQUIRE(weights_find(w, "f16")->dtype == DT_F16 && weights_find(w, "q8_0")->dtype == DT_COUNT);
    REQUIRE_EQ(weights_find(w, "q8_0")->bytes, 6 * 34);
    weights_close(w);
    REQUIRE_OK(file_read(golden_path("small.gguf"), 1 << 20, &data, &bytes));
    data[4] = 2; /* version 2 is the same */
    write_plain(RAW, data, bytes);
    REQUIRE_OK(open_one(RAW, &w));
    expect_gguf(w, want);
    weights_close(w);
    mem_free(data);
    safetensors_close(want);
}

/* ---- GGUF: hostile files, written by hand ---- */
typedef struct bytes {
    uint8_t p[2048];
    size_t n;
} bytes;

static void add(bytes *b, const void *p, size_t n) {
    memcpy(b->p + b->n, p, n);
    b->n += n;
}
static void add32(bytes *b, uint32_t v) { add(b, &v, 4); }
static void add64(bytes *b, uint64_t v) { add(b, &v, 8); }
static void add_text(bytes *b, const char *s) {
    add64(b, strlen(s));
    add(b, s, strlen(s));
}
static void begin(bytes *b, uint32_t version, uint64_t tensors, uint64_t keys) {
    b->n = 0;
    add(b, "GGUF", 4);
    add32(b, version);
    add64(b, tensors);
    add64(b, keys);
}
static void add_tensor(bytes *b, const char *name, uint64_t inner, uint64_t outer, uint32_t type,
                       uint64_t at) {
    add_text(b, name);
    add32(b, 2);
    add64(b, inner);
    add64(b, outer);
    add32(b, type);
    add64(b, at);
}
static void pad_to(bytes *b, size_t align, size_t data) {
    while (b->n % align) b->p[b->n++] = 0;
    memset(b->p + b->n, 1, data);
    b->n += data;
}
static void expect_raw(const bytes *b, status want, const char *says) {
    const char *path = RAW;
    write_plain(path, b->p, b->n);
    expect_open(&path, 1, want, says);
}

enum { F32 = 0, Q8_0 = 8, Q4_K = 12 };

/* One tensor, `data` bytes behind the header. */
static void expect_tensor(uint64_t inner, uint64_t outer, uint32_t type, uint64_t at, size_t data,
                          status want, const char *says) {
    bytes b;
    begin(&b, 3, 1, 0);
    add_tensor(&b, "w", inner, outer, type, at);
    pad_to(&b, 32, data);
    expect_raw(&b, want, says);
}

static void test_gguf_tensors(void) {
    bytes b;
    expect_tensor(4, 2, F32, 0, 32, OK, "");
    expect_tensor(4, 2, F32, 32, 64, OK, ""); /* a hole is allowed */
    expect_tensor(0, 2, F32, 0, 0, OK, "");
    expect_tensor(4, 2, F32, 0, 31, E_FORMAT,
                  "tensor w takes 32 bytes from byte 0 of the data, the file has 31: truncated");
    expect_tensor(4, 2, F32, 16, 64, E_FORMAT, "multiple of 32");
    expect_tensor(4, 2, F32, 1ull << 40, 64, E_FORMAT, "tensor w takes");
    expect_tensor(4, 2, F32, ~31ull, 64, E_FORMAT, "tensor w takes");
    expect_tensor(1ull << 63, 2, F32, 0, 64, E_FORMAT, "impossible");
    expect_tensor(1ull << 32, 1ull << 32, F32, 0, 64, E_FORMAT, "impossible");
    expect_tensor(1ull << 31, 1ull << 31, F32, 0, 64, E_FORMAT, "impossible");
    expect_tensor(~0ull, 0, F32, 0, 64, E_FORMAT, "impossible");
    expect_tensor(32, 2, Q8_0, 0, 68, OK, "");
    expect_tensor(32, 2, Q8_0, 0, 67, E_FORMAT, "tensor w takes 68");
    expect_tensor(48, 2, Q8_0, 0, 102, E_FORMAT, "whole blocks of Q8_0");
    expect_tensor(256, 1, Q4_K, 0, 144, E_UNSUPPORTED, "tensor w has the type Q4_K (12)");
    expect_tensor(256, 1, 5, 0, 144, E_UNSUPPORTED, "Q4_3");
    expect_tensor(256, 1, 4000000000u, 0, 144, E_UNSUPPORTED, "? (4000000000)");
    begin(&b, 3, 2, 0);
    add_tensor(&b, "a", 16, 1, F32, 0);
    add_tensor(&b, "b", 16, 1, F32, 32);
    pad_to(&b, 32, 96);
    expect_raw(&b, E_FORMAT, "tensor b overlaps");
    begin(&b, 3, 2, 0);
    add_tensor(&b, "a", 8, 1, F32, 0);
    add_tensor(&b, "a", 8, 1, F32, 32);
    pad_to(&b, 32, 64);
    expect_raw(&b, E_FORMAT, "tensor a is in");
    begin(&b, 3, 1, 0);
    add_text(&b, "w");
    add32(&b, 9);
    for (int i = 0; i < 9; i++) add64(&b, 1);
    pad_to(&b, 32, 64);
    expect_raw(&b, E_UNSUPPORTED, "9 dimensions");
    begin(&b, 3, 1, 0);
    add64(&b, 3);
    add(&b, "a\0b", 3);
    pad_to(&b, 32, 64);
    expect_raw(&b, E_FORMAT, "no name");
}

static void test_gguf_keys(void) {
    bytes b;
    static const struct {
        uint32_t version;
        uint64_t tensors, keys;
        status st;
        const char *says;
    } heads[] = {{1, 0, 0, E_UNSUPPORTED, "version 1"},
                 {4, 0, 0, E_UNSUPPORTED, "version 4"},
                 {0x03000000, 0, 0, E_UNSUPPORTED, "big-endian"},
                 {3, 0, 0, OK, ""},
                 {3, ~0ull, 0, E_FORMAT, "hostile"},
                 {3, 0, 1ull << 62, E_FORMAT, "hostile"},
                 {3, 1, 0, E_FORMAT, "truncated"},
                 {3, 0, 1, E_FORMAT, "truncated"}};
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        begin(&b, heads[i].version, heads[i].tensors, heads[i].keys);
        expect_raw(&b, heads[i].st, heads[i].says);
    }
    for (uint64_t length = 1; length;
         length <<= 1) { /* a key longer than the file, to the largest number */
        begin(&b, 3, 0, 1);
        add64(&b, length | 1ull << 16);
        expect_raw(&b, E_FORMAT, "");
    }
    for (uint32_t type = 13; type < 20; type++) {
        begin(&b, 3, 0, 1);
        add_text(&b, "k");
        add32(&b, type);
        add64(&b, 0);
        expect_raw(&b, E_FORMAT, "k has the type");
    }
    for (uint32_t element = 0; element < 15;
         element++) { /* arrays longer than the file; of arrays; of no type */
        begin(&b, 3, 0, 1);
        add_text(&b, "k");
        add32(&b, 9);
        add32(&b, element);
        add64(&b, element & 1 ? 1ull << 61 : 100);
        add64(&b, 0);
        expect_raw(&b, E_FORMAT, element == 9 || element > 12 ? "does not exist" : "truncated");
    }
    static const uint32_t aligns[] = {0, 3, 48, 1u << 21, 0x80000000u};
    for (size_t i = 0; i < ARRAY_LEN(aligns); i++) {
        begin(&b, 3, 0, 1);
        add_text(&b, "general.alignment");
        add32(&b, 4);
        add32(&b, aligns[i]);
        expect_raw(&b, E_FORMAT, "power of two");
    }
    begin(&b, 3, 1, 1);
    add_text(&b, "general.alignment");
    add32(&b, 4);
    add32(&b, 8);
    add_tensor(&b, "w", 2, 1, F32, 8);
    pad_to(&b, 8, 16);
    expect_raw(&b, OK, "");
}

/* comfy.gguf.orig_shape.w = dims, for a tensor w of 8 elements. */
static void expect_reshape(uint32_t type, uint64_t n, const int32_t *dims, status want,
                           const char *says) {
    bytes b;
    begin(&b, 3, 1, 1);
    add_text(&b, "comfy.gguf.orig_shape.w");
    add32(&b, 9);
    add32(&b, type);
    add64(&b, n);
    add(&b, dims, (size_t)n * 4);
    add_tensor(&b, "w", 4, 2, F32, 0);
    pad_to(&b, 32, 32);
    expect_raw(&b, want, says);
}

static void test_gguf_reshape(void) {
    static const int32_t ones[9] = {1, 1, 1, 1, 1, 1, 1, 1, 8};
    expect_reshape(5, 3, (const int32_t[]){2, 2, 2}, OK, "");
    expect_reshape(4, 8, ones + 1, OK, "");
    expect_reshape(5, 9, ones, E_FORMAT, "at most 8 sizes");
    expect_reshape(5, 2, (const int32_t[]){2, 2}, E_FORMAT, "another number");
    expect_reshape(5, 2, (const int32_t[]){-2, -4}, E_FORMAT, "another number");
    expect_reshape(5, 3, (const int32_t[]){0x7fffffff, 0x7fffffff, 0x7fffffff}, E_FORMAT,
                   "another number");
    expect_reshape(6, 3, (const int32_t[]){2, 2, 2}, E_FORMAT, "sizes");
}

static void test_gguf_cut(void) {
    uint8_t *data;
    size_t n;
    const char *path = RAW;
    weights *w;
    REQUIRE_OK(file_read(golden_path("small.gguf"), 1 << 20, &data, &n));
    REQUIRE_OK(open_one(golden_path("small.gguf"), &w));
    size_t last = 0; /* where the last tensor ends; padding follows */
    const uint8_t *first = weights_at(w, 0)->data;
    for (int64_t i = 0; i < weights_count(w); i++)
        first = MIN(first, (const uint8_t *)weights_at(w, i)->data);
    for (int64_t i = 0; i < weights_count(w); i++) {
        const weight *t = weights_at(w, i);
        last = MAX(last, (size_t)((const uint8_t *)t->data - first) + (size_t)t->bytes);
    }
    weights_close(w);
    REQUIRE(last > 0 && last < n);
    for (size_t k = 0; k < n; k++) {
        write_plain(RAW, data, k);
        status st = open_one(path, &w);
        REQUIRE(st == E_FORMAT || (st == OK && n - k < 32)); /* padding may be missing */
        weights_close(w);
    }
    mem_free(data);
}

/* ---- sets ---- */
static const float one[6] = {1, 2, 3, 4, 5, 6};
static const int64_t wide[2] = {-3, 1ll << 40};
static const safetensor in_a[] = {
    {.name = "b.weight", .dtype = DT_F32, .n_dims = 2, .dim = {2, 3}, .data = one},
    {.name = "ids", .type = "I64", .dtype = DT_COUNT, .n_dims = 1, .dim = {2}, .data = wide}};
static const safetensor in_b[] = {
    {.name = "a.weight", .dtype = DT_F32, .n_dims = 1, .dim = {4}, .data = one},
    {.name = "scalar", .dtype = DT_F32, .n_dims = 0, .data = one}};
static const safetensor_note notes_a[] = {{"format", "pt"}},
                             notes_b[] = {{"format", "other"}, {"only", "b"}};

static void write_pair(void) {
    REQUIRE_OK(safetensors_write(A, in_a, 2, notes_a, 1));
    REQUIRE_OK(safetensors_write(B, in_b, 2, notes_b, 2));
}

static void test_set(void) {
    const char *const paths[] = {A, B, golden_path("small.gguf")};
    const char *const twice[] = {A, B, A};
    weights *w;
    float out[6];
    write_pair();
    REQUIRE_OK(weights_open(paths, 3, &w));
    REQUIRE_EQ(weights_count(w), 4 + 14);
    for (int64_t i = 1; i < weights_count(w); i++)
        REQUIRE(strcmp(weights_at(w, i - 1)->name, weights_at(w, i)->name) < 0);
    REQUIRE(!strcmp(weights_at(w, 0)->name, "a.weight") && !strcmp(weights_at(w, 0)->path, B));
    REQUIRE(weights_find(w, "q8_0") && !weights_find(w, "none") && !weights_find(w, ""));
    REQUIRE(!strcmp(weights_note(w, "format"), "pt") && !strcmp(weights_note(w, "only"), "b") &&
            weights_note(w, "general.name"));
    REQUIRE_OK(weight_read(weights_find(w, "b.weight"), 2, 3, DT_F32, out, NULL));
    REQUIRE(out[0] == 3 && out[2] == 5);
    REQUIRE_OK(weight_read(weights_find(w, "ids"), 0, 2, DT_F32, out, NULL));
    REQUIRE(out[0] == -3 && out[1] == 1099511627776.0f);
    REQUIRE_OK(weight_read(weights_find(w, "scalar"), 0, 1, DT_F32, out, NULL));
    REQUIRE(out[0] == 1 && weights_find(w, "scalar")->count == 1);
    weights_close(w);
    REQUIRE_OK(weights_open(paths, 2, &w));
    REQUIRE_EQ(weights_bytes(w), 24 + 16 + 16 + 4);
    weights_close(w);
    weights_close(NULL);
    expect_open(twice, 3, E_FORMAT, "tensor b.weight is in " A " and again in " A);
    expect_open(twice, 0, E_USAGE, "no file");
}

/* Old writers did not pad the header. */
static void test_misaligned(void) {
    static const char json_text[] =
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[1500],\"data_offsets\":[0,6000]}}";
    static uint8_t file[8 + 80 + 6000];
    static float x[1500], out[1500];
    static uint16_t half[1500];
    const char *path = RAW;
    for (int i = 0; i < 1500; i++) x[i] = (float)i - 700.25f;
    for (size_t pad = 0; pad < 8; pad++) {
        weights *w;
        uint64_t length = strlen(json_text) + pad;
        memset(file, ' ', sizeof file);
        memcpy(file, &length, 8);
        memcpy(file + 8, json_text, strlen(json_text));
        memcpy(file + 8 + length, x, sizeof x);
        write_plain(path, file, 8 + length + sizeof x);
        REQUIRE_OK(open_one(path, &w));
        const weight *t = weights_at(w, 0);
        for (int round = 0; round < 2;
             round++) { /* released pages come back with the same values */
            REQUIRE_OK(weight_read(t, 0, 1500, DT_F32, out, NULL));
            REQUIRE(!memcmp(out, x, sizeof x));
            REQUIRE_OK(weight_read(t, 0, 1500, DT_F16, half, NULL));
            for (int i = 0; i < 1500; i++) REQUIRE_EQ(half[i], f32_to_f16(x[i]));
            weight_release(t);
        }
        weights_close(w);
    }
}

/* ---- shards ---- */
static void expect_index(const char *text, status want, const char *says) {
    const char *path = INDEX;
    write_plain(path, text, strlen(text));
    expect_open(&path, 1, want, says);
}

static void test_shards(void) {
    weights *w;
    static const char good[] =
        "{\"metadata\":{\"total_size\":60},\"weight_map\":{\"a.weight\":\"b.safetensors\","
        "\"ids\":\"a.safetensors\",\"scalar\":\"b.safetensors\",\"b.weight\":\"a.safetensors\"}}";
    write_pair();
    expect_index(good, OK, "");
    REQUIRE_OK(open_one(INDEX, &w));
    REQUIRE_EQ(weights_count(w), 4);
    REQUIRE(!strcmp(weights_find(w, "ids")->path, A));
    weights_close(w);
    expect_index("{\"weight_map\":{\"a.weight\":\"b.safetensors\",\"x\":\"none.safetensors\"}}",
                 E_IO, FOLDER "/none.safetensors: not there, but " INDEX);
    expect_index("{\"weight_map\":{\"a.weight\":\"b.safetensors\",\"x\":\"a.safetensors\"}}",
                 E_FORMAT, A ": tensor x should be in it");
    expect_index("{\"weight_map\":{\"a.weight\":\"a.safetensors\",\"ids\":\"b.safetensors\"}}",
                 E_FORMAT, "different versions");
    expect_index("{\"weight_map\":{\"a\":\"../b.safetensors\"}}", E_FORMAT, "out of its folder");
    expect_index("{\"weight_map\":{\"a\":\"/etc/passwd\"}}", E_FORMAT, "out of its folder");
    expect_index("{\"weight_map\":{\"a\":\"\"}}", E_FORMAT, "out of its folder");
    expect_index("{\"weight_map\":{\"a\":1}}", E_FORMAT, "a is not the name of a file");
    expect_index("{\"weight_map\":[]}", E_FORMAT, "no weight_map");
    expect_index("[]", E_FORMAT, "no weight_map");
    expect_index("{", E_FORMAT, "not valid JSON");
    expect_index("{\"weight_map\":{}}", OK, "");
}

/* ---- other kinds of files ---- */
#define CONTENT(s) (s), sizeof(s) - 1
static void test_kinds(void) {
    static const struct {
        const char *data;
        size_t n;
        status st;
        const char *says;
    } kinds[] = {
        {CONTENT("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 \x6a\xa8P\x19."), E_UNSUPPORTED, "pickle"},
        {CONTENT("\x80\x04}q\0.abcdefgh"), E_UNSUPPORTED, "safetensors.torch.save_file"},
        {CONTENT("PK\3\4\0\0\0\0......archive/data.pkl......"), E_UNSUPPORTED, "pickle"},
        {CONTENT("PK\3\4\0\0\0\0......unet/model.safetensors......"), E_FORMAT, "unpack it"},
        {CONTENT("<!DOCTYPE html><html>"), E_FORMAT, "web page"},
        {CONTENT("version https://git-lfs.github.com/spec/v1\noid"), E_FORMAT, "git lfs pull"},
        {CONTENT("GGU"), E_FORMAT, "not a whole safetensors file"},
        {CONTENT("GGUF"), E_FORMAT, "truncated"},
        {CONTENT(""), E_FORMAT, "not a whole safetensors file"}};
    const char *path = RAW, *none = FOLDER "/none", *folder = FOLDER;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        write_plain(RAW, kinds[i].data, kinds[i].n);
        expect_open(&path, 1, kinds[i].st, kinds[i].says);
    }
    expect_open(&none, 1, E_IO, "No such file");
    expect_open(&folder, 1, E_IO, "not a regular file");
    /* A header of 640 bytes: 80 02 00 ... begins like a pickle and is none. */
    static uint8_t file[8 + 640] = {0x80, 0x02};
    memset(file + 8, ' ', 640);
    memcpy(file + 8, "{}", 2);
    write_plain(RAW, file, sizeof file);
    expect_open(&path, 1, OK, "");
}

/* ---- fault ring ---- */
static status open_all(void) {
    const char *const paths[] = {INDEX, golden_path("small.gguf")};
    weights *w;
    status st = weights_open(paths, 2, &w);
    if (st != OK) REQUIRE(!w);
    weights_close(w);
    return st;
}

static void test_faults(void) {
    static const char index[] =
        "{\"weight_map\":{\"ids\":\"a.safetensors\",\"scalar\":\"b.safetensors\"}}";
    int64_t before = mem_live(), n = 1;
    write_pair();
    write_plain(INDEX, index, strlen(index));
    for (;; n++) {
        fault_arm(n);
        status st = open_all();
        fault_arm(0);
        REQUIRE_EQ(mem_live(), before);
        if (st == OK) break;
        REQUIRE((st == E_IO || st == E_HOST_MEMORY) && *error_message());
    }
    printf("open: %lld fallible steps\n", (long long)n - 1);
    REQUIRE(n > 60);
}

int main(int argc, char **argv) {
    if (argc != 2) return printf("usage: test_weights GOLDEN_FOLDER\n"), 2;
    golden = argv[1];
    REQUIRE_OK(os_mkdir_p(FOLDER));
    test_halves();
    test_finite();
    test_gguf();
    test_gguf_tensors();
    test_gguf_keys();
    test_gguf_reshape();
    test_gguf_cut();
    test_set();
    test_misaligned();
    test_shards();
    test_kinds();
    test_faults();
    REQUIRE_EQ(mem_live(), 0);
    printf("weights: ok\n");
    return 0;
}
