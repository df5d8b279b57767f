/* test_file.c: files and safetensors: round trips, hostile headers, and the fault ring over every
 * fallible step: a failed step gives a clean status, leaks nothing and leaves the old file whole.
 * SPDX-License-Identifier: MIT */
#include "test.h"
#include "file/file.h"

#include <dirent.h>

#define FOLDER "test_file_data"
#define PATH   FOLDER "/t.safetensors"

/* ---- whole files ---- */
static void expect_content(const char *path, const char *want) {
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(file_read(path, 1000, &data, &bytes));
    REQUIRE_EQ(bytes, strlen(want));
    REQUIRE(!memcmp(data, want, bytes + 1)); /* with the extra NUL */
    mem_free(data);
}

static void test_files(void) {
    const char *path = FOLDER "/a/b/x.txt";
    uint8_t *data;
    size_t bytes;
    file_map m;
    file_out f;
    REQUIRE_OK(os_mkdir_p(FOLDER "/a/b"));
    REQUIRE_OK(os_mkdir_p(FOLDER "/a/b/"));
    REQUIRE_OK(file_write_atomic(path, "hello", 5));
    expect_content(path, "hello");
    REQUIRE_EQ(os_mkdir_p(FOLDER "/a/b/x.txt/c"), E_IO);
    REQUIRE_EQ(file_read(path, 4, &data, &bytes), E_FORMAT);
    REQUIRE_OK(file_read(path, 5, &data, &bytes));
    mem_free(data);
    REQUIRE_OK(file_map_open(path, &m));
    REQUIRE(m.bytes == 5 && !memcmp(m.data, "hello", 5));
    file_map_close(&m);
    REQUIRE_OK(file_out_open(path, &f));
    REQUIRE_OK(file_out_write(&f, "new", 3));
    expect_content(path, "hello"); /* until the commit */
    file_out_abort(&f);
    expect_content(path, "hello");
    REQUIRE_OK(file_write_atomic(path, "", 0));
    expect_content(path, "");
    REQUIRE_OK(file_map_open(path, &m));
    REQUIRE(m.bytes == 0);
    file_map_close(&m);
    REQUIRE_EQ(file_read(FOLDER "/none", 9, &data, &bytes), E_IO);
    REQUIRE(strstr(error_message(), FOLDER "/none: cannot read: No such file"));
    REQUIRE_EQ(file_read(FOLDER, 9, &data, &bytes), E_IO);
    REQUIRE_EQ(file_map_open(FOLDER, &m), E_IO);
    REQUIRE_EQ(file_map_open(FOLDER "/none", &m), E_IO);
    REQUIRE_EQ(file_write_atomic(FOLDER "/none/x", "a", 1), E_IO);
    REQUIRE_EQ(file_write_atomic(FOLDER "/a", "a", 1), E_IO);
    REQUIRE_EQ(file_write_atomic("/dev/null", "a", 1), E_IO); /* not replaced by a file */
    REQUIRE(os_file_exists(path) && !os_file_exists(FOLDER "/none"));
}

/* ---- safetensors: round trip ---- */
static const float f32s[6] = {1, -2, 3.5f, 1e-30f, -0.0f, 7};
static const uint16_t f16s[3] = {0x3c00, 0xc000, 0x7bff}, bf16s[3] = {0x3f80, 0xc000, 0x0000};
static const uint32_t u32s[2] = {7, 0xffffffffu};
static const double f64s[1] = {0.1};
static const int64_t i64s[2] = {-3, 1ll << 40};
static const int8_t i8s[3] = {-1, 2, -128};
static const uint8_t u8s[3] = {0, 1, 255};
static const safetensor samples[] = {
    {.name = "z.weight", .dtype = DT_F32, .n_dims = 2, .dim = {2, 3}, .data = f32s},
    {.name = "half", .dtype = DT_F16, .n_dims = 1, .dim = {3}, .data = f16s},
    {.name = "brain", .dtype = DT_BF16, .n_dims = 3, .dim = {1, 3, 1}, .data = bf16s},
    {.name = "u", .dtype = DT_U32, .n_dims = 1, .dim = {2}, .data = u32s},
    {.name = "scalar", .dtype = DT_F64, .n_dims = 0, .data = f64s},
    {.name = "empty", .dtype = DT_F32, .n_dims = 2, .dim = {0, 4}, .data = NULL},
    {.name = "ids", .type = "I64", .dtype = DT_COUNT, .n_dims = 1, .dim = {2}, .data = i64s},
    {.name = "i8", .type = "I8", .dtype = DT_COUNT, .n_dims = 1, .dim = {3}, .data = i8s},
    {.name = "quote\" back\\ tab\t \xc3\xa9",
     .type = "U8",
     .dtype = DT_COUNT,
     .n_dims = 1,
     .dim = {3},
     .data = u8s}};
static const safetensor_note notes[] = {{"format", "pt"}, {"prompt", "a \"cat\"\n\xe2\x82\xac"}};

static void test_round_trip(void) {
    safetensors *f;
    char text[64];
    REQUIRE_OK(safetensors_write(PATH, samples, ARRAY_LEN(samples), notes, ARRAY_LEN(notes)));
    REQUIRE_OK(safetensors_open(PATH, &f));
    REQUIRE_EQ(f->n, ARRAY_LEN(samples));
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        const safetensor *a = &samples[i], *b = safetensors_find(f, a->name);
        REQUIRE(b && b->dtype == a->dtype && b->n_dims == a->n_dims);
        REQUIRE(!memcmp(a->dim, b->dim, sizeof a->dim) && (!a->type || !strcmp(a->type, b->type)));
        REQUIRE_EQ(safetensor_bytes(a), safetensor_bytes(b));
        if (a->data) REQUIRE(!memcmp(a->data, b->data, safetensor_bytes(a)));
    }
    REQUIRE(!safetensors_find(f, "") && !safetensors_find(f, "zz") && !safetensors_find(f, "a"));
    REQUIRE(!strcmp(safetensors_find_note(f, "prompt"), notes[1].value) &&
            !safetensors_find_note(f, "x"));
    REQUIRE(safetensor_load(safetensors_find(f, "ids"), 0) == -3);
    REQUIRE(safetensor_load(safetensors_find(f, "ids"), 1) == 1099511627776.0);
    REQUIRE(safetensor_load(safetensors_find(f, "i8"), 2) == -128);
    REQUIRE(safetensor_load(safetensors_find(f, samples[8].name), 2) == 255);
    REQUIRE(safetensor_load(safetensors_find(f, "scalar"), 0) == 0.1);
    float v[6];
    safetensor_read_f32(safetensors_find(f, "half"), v);
    REQUIRE(v[0] == 1 && v[1] == -2 && v[2] == 65504);
    safetensor_read_f32(safetensors_find(f, "brain"), v);
    REQUIRE(v[0] == 1 && v[1] == -2 && v[2] == 0);
    safetensor_read_f32(safetensors_find(f, "z.weight"), v);
    REQUIRE(!memcmp(v, f32s, sizeof v));
    safetensor_describe(safetensors_find(f, "z.weight"), text, sizeof text);
    REQUIRE(!strcmp(text, "F32[2, 3]"));
    safetensor_describe(safetensors_find(f, "z.weight"), text, 5); /* cut, not overrun */
    REQUIRE_EQ(strlen(text), 4);
    safetensors_close(f);
    safetensors_close(NULL);
    REQUIRE_OK(safetensors_write(PATH, NULL, 0, NULL, 0));
    REQUIRE_OK(safetensors_open(PATH, &f));
    REQUIRE(f->n == 0 && f->n_notes == 0 && f->data_bytes == 0);
    safetensors_close(f);
}

/* The order that tensors are given in does not change the file. */
static void test_deterministic(void) {
    safetensor turned[ARRAY_LEN(samples)];
    uint8_t *a, *b;
    size_t na, nb;
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) turned[i] = samples[ARRAY_LEN(samples) - 1 - i];
    REQUIRE_OK(safetensors_write(PATH, samples, ARRAY_LEN(samples), NULL, 0));
    REQUIRE_OK(file_read(PATH, 1 << 20, &a, &na));
    REQUIRE_OK(safetensors_write(PATH, turned, ARRAY_LEN(turned), NULL, 0));
    REQUIRE_OK(file_read(PATH, 1 << 20, &b, &nb));
    REQUIRE(na == nb && !memcmp(a, b, na));
    mem_free(a);
    mem_free(b);
}

static void test_write_refuses(void) {
    safetensor two[2] = {samples[0], samples[0]};
    safetensor_note same[2] = {notes[0], notes[0]}, latin = {"a", "caf\xe9"};
    static const char *const names[] = {"__metadata__",     "\xff",     "\xc0\x80", "\xed\xa0\x80",
                                        "\xf5\x80\x80\x80", "a\xe2\x82"};
    REQUIRE_OK(file_write_atomic(PATH, "old", 3));
    REQUIRE_EQ(safetensors_write(PATH, two, 2, NULL, 0), E_FORMAT);
    REQUIRE(strstr(error_message(), "z.weight"));
    REQUIRE_EQ(safetensors_write(PATH, two, 1, same, 2), E_FORMAT);
    REQUIRE_EQ(safetensors_write(PATH, two, 1, &latin, 1), E_FORMAT);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        two[0].name = names[i];
        REQUIRE_EQ(safetensors_write(PATH, two, 1, NULL, 0), E_FORMAT);
    }
    two[1].dim[0] = two[1].dim[1] = 1ll << 40;
    REQUIRE_EQ(safetensors_write(PATH, &two[1], 1, NULL, 0), E_FORMAT);
    two[1].dim[0] = -1;
    REQUIRE_EQ(safetensors_write(PATH, &two[1], 1, NULL, 0), E_FORMAT);
    two[1] = samples[0], two[1].type = "F4";
    REQUIRE_EQ(safetensors_write(PATH, &two[1], 1, NULL, 0), E_FORMAT);
    expect_content(PATH, "old");
}

/* ---- safetensors: hostile files ---- */
static void write_raw(const char *header, uint64_t length, size_t data_bytes) {
    uint8_t buf[4096] = {0};
    size_t n = strlen(header);
    memcpy(buf, &length, 8);
    memcpy(buf + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++) buf[8 + n + i] = (uint8_t)i;
    REQUIRE_OK(file_write_atomic(PATH, buf, 8 + n + data_bytes));
}

#define T(name, type, shape, begin, end)                                                           \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end  \
    "]}"

static const struct hostile {
    const char *header;
    size_t data_bytes;
    status want;
    const char *says;
} hostile[] = {
    {"{" T("w", "F32", "2", "0", "8") "}", 8, OK, ""},
    {"{" T("w", "F32", "2", "0", "8") "}", 7, E_FORMAT, "tensor w ends at byte 8"},
    {"{" T("w", "F32", "2", "0", "8") "}", 9, E_FORMAT, "take 8 bytes, the file has 9"},
    {"{" T("w", "F32", "3", "0", "8") "}", 8, E_FORMAT, "F32[3] does not fill its 8 bytes"},
    {"{" T("w", "F32", "2", "4", "12") "}", 12, E_FORMAT, "hole"},
    {"{" T("a", "F32", "2", "0", "8") "," T("b", "F32", "2", "4", "12") "}", 12, E_FORMAT,
     "overlaps"},
    {"{" T("a", "F32", "2", "0", "8") "," T("b", "F32", "2", "0", "8") "}", 8, E_FORMAT,
     "tensor b begins"},
    {"{" T("a", "F32", "1", "0", "4") "," T("a", "F32", "1", "4", "8") "}", 8, E_FORMAT,
     "a occurs twice"},
    {"{" T("w", "F32", "2", "8", "0") "}", 8, E_FORMAT, "data_offsets"},
    {"{" T("w", "F32", "2", "-8", "0") "}", 8, E_FORMAT, "data_offsets"},
    {"{" T("w", "F32", "2", "0.5", "8.5") "}", 8, E_FORMAT, "data_offsets"},
    {"{" T("w", "F32", "2", "0", "1e999") "}", 8, E_FORMAT, "data_offsets"},
    {"{" T("w", "F32", "2", "0", "8,9") "}", 8, E_FORMAT, "data_offsets"},
    {"{" T("w", "F32", "-2", "0", "8") "}", 8, E_FORMAT, "dimension 0"},
    {"{" T("w", "F32", "\"2\"", "0", "8") "}", 8, E_FORMAT, "dimension 0"},
    {"{" T("w", "F32", "9007199254740992,9007199254740992", "0", "8") "}", 8, E_FORMAT,
     "does not fill"},
    {"{" T("w", "F32", "4294967296,4294967296", "0", "0") "}", 0, E_FORMAT, "does not fill"},
    {"{" T("w", "F32", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, E_UNSUPPORTED, "dimensions"},
    {"{" T("w", "Q4", "2", "0", "8") "}", 8, E_UNSUPPORTED, "tensor w has the dtype Q4"},
    {"{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, E_FORMAT, "no dtype"},
    {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, E_FORMAT, "no shape"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, E_FORMAT, "data_offsets"},
    {"{\"w\":[1,2]}", 0, E_FORMAT, "no dtype"},
    {"{\"w\":null}", 0, E_FORMAT, "no dtype"},
    {"[1,2]", 0, E_FORMAT, "not a JSON object"},
    {"{\"w\":", 0, E_FORMAT, "not valid JSON"},
    {"{} x", 0, E_FORMAT, "not valid JSON"},
    {"{\"__metadata__\":[]}", 0, E_FORMAT, "not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, E_FORMAT, "metadata a is not a string"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, E_FORMAT, "twice"},
    {"{\"__metadata__\":{\"a\":\"b\"}}   ", 0, OK, ""},
    {"{\"__metadata__\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
     0, E_FORMAT, "deeper"},
    {"{" T("e", "F32", "0", "0", "0") "," T("w", "U8", "1", "0", "1") "," T("s", "U8", "", "1",
                                                                            "2") "}",
     2, OK, ""},
};

static void expect_open(status want, const char *says) {
    safetensors *f;
    int64_t before = mem_live();
    status st = safetensors_open(PATH, &f);
    if (st != want || (st != OK && (f || !strstr(error_message(), says)))) {
        printf("FAIL: got %s (%s), expected %s with \"%s\"\n", status_name(st),
               st ? error_message() : "", status_name(want), says);
        exit(1);
    }
    safetensors_close(f);
    REQUIRE_EQ(mem_live(), before);
}

static void test_hostile(void) {
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        write_raw(hostile[i].header, strlen(hostile[i].header), hostile[i].data_bytes);
        expect_open(hostile[i].want, hostile[i].says);
    }
    const uint64_t lengths[] = {0, 1, 3, 1ull << 27, 1ull << 62, ~0ull, ~0ull - 7};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        write_raw("{}", lengths[i], 0);
        expect_open(E_FORMAT, "not a whole safetensors file");
    }
    for (size_t n = 0; n < 8; n++) {
        REQUIRE_OK(file_write_atomic(PATH, "1234567", n));
        expect_open(E_FORMAT, "not a whole safetensors file");
    }
}

/* Old writers did not pad the header: the values are then copied to where they may be read. */
static void test_misaligned(void) {
    for (int pad = 0; pad < 8; pad++) {
        char header[256];
        safetensors *f;
        snprintf(header, sizeof header, "{" T("w", "F32", "2", "0", "8") "}%*s", pad, "");
        write_raw(header, strlen(header), 8);
        REQUIRE_OK(safetensors_open(PATH, &f));
        const float *w = f->tensor[0].data;
        const uint8_t bytes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
        REQUIRE((uintptr_t)w % 4 == 0 && !memcmp(w, bytes, 8));
        safetensors_close(f);
    }
}

/* ---- fault ring ---- */
static status write_samples(void) {
    return safetensors_write(PATH, samples, ARRAY_LEN(samples), notes, ARRAY_LEN(notes));
}
static status open_samples(void) {
    safetensors *f;
    status st = safetensors_open(PATH, &f);
    safetensors_close(f);
    return st;
}
static status read_whole(void) {
    uint8_t *data;
    size_t bytes;
    status st = file_read(PATH, 1 << 20, &data, &bytes);
    mem_free(data);
    return st;
}
static status make_directory(void) { return os_mkdir_p(FOLDER "/c/d"); }

static void expect_whole_or(const char *old) {
    uint8_t *data;
    size_t bytes;
    REQUIRE_OK(file_read(PATH, 1 << 20, &data, &bytes));
    bool is_old = bytes == strlen(old) && !memcmp(data, old, bytes);
    mem_free(data);
    if (!is_old) REQUIRE_OK(open_samples());
}

static void ring(const char *what, status (*step)(void), int64_t at_least) {
    int64_t before = mem_live(), n = 1;
    for (;; n++) {
        fault_arm(n);
        status st = step();
        fault_arm(0);
        REQUIRE_EQ(mem_live(), before);
        if (step == write_samples) expect_whole_or("old");
        if (st == OK) break;
        REQUIRE(st == E_IO || st == E_HOST_MEMORY);
        REQUIRE(*error_message());
    }
    printf("%s: %lld fallible steps\n", what, (long long)n - 1);
    REQUIRE(n > at_least);
}

static void test_faults(void) {
    REQUIRE_OK(file_write_atomic(PATH, "old", 3));
    ring("write", write_samples, 12);
    REQUIRE_OK(open_samples()); /* the last round went through */
    ring("open", open_samples, 30);
    ring("read", read_whole, 3);
    ring("mkdir", make_directory, 3);
    DIR *d = opendir(FOLDER); /* no temporary is left behind, by any failure above either */
    REQUIRE(d);
    for (const struct dirent *e; (e = readdir(d));) REQUIRE(!strstr(e->d_name, ".tmp"));
    closedir(d);
}

int main(void) {
    REQUIRE_OK(os_mkdir_p(FOLDER));
    test_files();
    test_round_trip();
    test_deterministic();
    test_write_refuses();
    test_hostile();
    test_misaligned();
    test_faults();
    REQUIRE_EQ(mem_live(), 0);
    printf("file: ok\n");
    return 0;
}
