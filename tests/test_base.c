/* test_base.c: base/: no device, no file formats. Half conversions are checked against ldexp and
 * rint, Philox against the known answers published with Random123. SPDX-License-Identifier: MIT */
#include "test.h"
#include "base/dtype.h"

#include <cjson/cJSON.h>
#include <math.h>

/* ---- half floats, computed another way ---- */
static double half_value(uint16_t h, int exponent_bits) {
    int m_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int e = (h & 0x7fff) >> m_bits, m = h & ((1 << m_bits) - 1);
    double s = h & 0x8000 ? -1 : 1;
    if (e == (1 << exponent_bits) - 1) return m ? (double)NAN : s * (double)INFINITY;
    return e ? s * ldexp(1 + ldexp(m, -m_bits), e - bias) : s * ldexp(m, 1 - bias - m_bits);
}

/* x rounded to the format: to a multiple of the unit in the last place of its binade, ties to even.
 */
static double half_round(double x, int exponent_bits) {
    int m_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1, e;
    if (x == 0 || isinf(x) || isnan(x)) return x;
    frexp(x, &e);
    double unit = ldexp(1, MAX(e - 1, 1 - bias) - m_bits), r = rint(x / unit) * unit;
    double limit = ldexp(2 - ldexp(1, -m_bits), bias);
    return fabs(r) > limit ? copysign((double)INFINITY, x) : r;
}

static bool same(double a, double b) {
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void check_one(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    uint16_t h = f32_to_f16(x), b = f32_to_bf16(x);
    if (!same(half_value(h, 5), half_round((double)x, 5)) ||
        !same(half_value(b, 8), half_round((double)x, 8))) {
        printf("FAIL %08x: f16 %04x = %a, expected %a; bf16 %04x = %a, expected %a\n", bits, h,
               half_value(h, 5), half_round((double)x, 5), b, half_value(b, 8),
               half_round((double)x, 8));
        exit(1);
    }
}

static void test_half(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t q = (uint16_t)h;
        REQUIRE(same((double)f16_to_f32(q), half_value(q, 5)));
        REQUIRE(same((double)bf16_to_f32(q), half_value(q, 8)));
        if (!isnan(half_value(q, 5))) REQUIRE_EQ(f32_to_f16(f16_to_f32(q)), q);
        if (!isnan(half_value(q, 8))) REQUIRE_EQ(f32_to_bf16(bf16_to_f32(q)), q);
    }
    /* Every exponent and both signs with mantissas around the ties of both formats, then a coarse
     * sweep of all floats. */
    for (uint32_t top = 0; top < 512; top++)
        for (uint32_t m = 0; m < 1u << 23; m += m < 64 || m > (1u << 23) - 64 ? 1 : 4096)
            for (uint32_t d = 0; d < 3; d++) check_one(top << 23 | ((m - 1 + d) & 0x7fffff));
    for (uint64_t u = 0; u < 1ull << 32; u += 4099) check_one((uint32_t)u);
}

static void test_dtype(void) {
    for (int t = 0; t < DT_COUNT; t++) {
        double cell = 0; /* aligned for every type */
        dtype_store(&cell, (dtype)t, 0, 3);
        REQUIRE(dtype_load(&cell, (dtype)t, 0) == 3);
        REQUIRE(strlen(dtype_name((dtype)t)) >= 3 && dtype_bytes((dtype)t) >= 2);
    }
    uint32_t u[3];
    dtype_store(u, DT_U32, 0, -5);
    dtype_store(u, DT_U32, 1, 1e30);
    dtype_store(u, DT_U32, 2, (double)NAN);
    REQUIRE_EQ(u[0], 0);
    REQUIRE_EQ(u[1], UINT32_MAX);
    REQUIRE_EQ(u[2], 0);
    REQUIRE(dtype_epsilon(DT_F32) == ldexp(1, -24) && dtype_epsilon(DT_BF16) == ldexp(1, -8));
}

/* ---- random numbers ---- */
static void test_philox(void) {
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, /* digits of pi */
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        uint32_t out[4];
        rng_philox(known[i].ctr, known[i].key, out);
        for (int w = 0; w < 4; w++) REQUIRE_EQ(out[w], known[i].out[w]);
    }
}

static void test_rng(void) {
    rng_key a = {{7, 1}, rng_stream("noise")}, b = {{7, 1}, rng_stream("dropout")};
    REQUIRE(a.stream != b.stream);
    REQUIRE_EQ(rng_stream(""), 2166136261u); /* FNV-1a: its offset basis, and a published value */
    REQUIRE_EQ(rng_stream("a"), 0xe40c292cu);
    enum { N = 200000 };
    double sum = 0, sum2 = 0, sum4 = 0, uniform = 0, cross = 0;
    for (uint64_t i = 0; i < N; i++) {
        double z = rng_normal(a, 3, i), u = rng_uniform(a, 3, i);
        REQUIRE(u >= 0 && u < 1 && isfinite(z));
        sum += z, sum2 += z * z, sum4 += z * z * z * z, uniform += u;
        cross += z * rng_normal(b, 3, i);
    }
    double n = N, s = 5 / sqrt(n); /* five standard errors of a mean of unit variance */
    REQUIRE(fabs(sum / n) < s && fabs(sum2 / n - 1) < s * sqrt(2.0));
    REQUIRE(fabs(sum4 / n - 3) < s * sqrt(96.0) && fabs(uniform / n - 0.5) < s &&
            fabs(cross / n) < s);
    /* The high words of the counter count: far elements and samples are other numbers. */
    REQUIRE(rng_normal(a, 3, 5) != rng_normal(a, 3, 5 + (1ull << 32)));
    REQUIRE(rng_normal(a, 3, 5) != rng_normal(a, 3 + (1ull << 32), 5));
    REQUIRE(rng_normal(a, 3, 5) == rng_normal(a, 3, 5));
}

/* ---- status ---- */
static status inner(void) { return fail(E_SHAPE, "seen %d, expected %d", 3, 4); }
static status middle(void) {
    status st = OK;
    TRY(inner());
out:
    return st;
}

static void test_status(void) {
    REQUIRE_EQ(middle(), E_SHAPE);
    REQUIRE(!strcmp(error_message(), "seen 3, expected 4"));
    REQUIRE(strstr(error_backtrace(), "test_base.c:") && strstr(error_backtrace(), "inner()"));
    REQUIRE_EQ(fail(E_IO, "outer: %s", error_message()), E_IO); /* its own message as an argument */
    REQUIRE(!strcmp(error_message(), "outer: seen 3, expected 4") && !*error_backtrace());
    (void)fail(E_IO, "a\033[2Jb");
    REQUIRE(!strchr(error_message(), '\033'));
    for (int i = 0; i < 10000; i++) error_trace(E_IO, HERE, "deep");
    REQUIRE(strlen(error_backtrace()) < 10000);
    error_clear();
    REQUIRE(!*error_message() && !*error_backtrace());
    for (int i = 0; i < STATUS_COUNT; i++)
        REQUIRE(strcmp(status_name((status)i), "unknown status"));
}

/* ---- memory ---- */
static void test_memory(void) {
    int64_t before = mem_live();
    for (size_t n = 0; n < 300; n += 7) {
        uint8_t *p = mem_zalloc(n);
        REQUIRE(p && (uintptr_t)p % 64 == 0);
        for (size_t i = 0; i < n; i++) REQUIRE_EQ(p[i], 0);
        p = mem_realloc(p, n, n + 100);
        REQUIRE_EQ(mem_live(), before + 1);
        mem_free(p);
    }
    mem_free(NULL);
    REQUIRE(!mem_alloc(SIZE_MAX) && !mem_alloc(SIZE_MAX - 63) && !mem_zalloc(SIZE_MAX / 2 + 1));
    REQUIRE_EQ(mem_live(), before);
}

static void test_arena(void) {
    int64_t before = mem_live();
    arena a = {0};
    uint8_t *seen[600];
    for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
        size_t n = i * i % 9973;
        seen[i] = arena_alloc(&a, n);
        REQUIRE(seen[i] && (uintptr_t)seen[i] % 16 == 0);
        for (size_t k = 0; k < n; k++) REQUIRE_EQ(seen[i][k], 0);
        memset(seen[i], (int)(i & 255), n);
    }
    for (size_t i = 0; i < ARRAY_LEN(seen); i++)
        for (size_t k = 0; k < i * i % 9973; k++) REQUIRE_EQ(seen[i][k], i & 255);
    REQUIRE(!strcmp(arena_printf(&a, "%s-%d", "x", 5), "x-5"));
    REQUIRE(!arena_alloc(&a, SIZE_MAX) && a.total_bytes > 0);
    arena_fini(&a);
    REQUIRE(!a.head && !a.total_bytes);
    REQUIRE_EQ(mem_live(), before);
}

/* ---- json ---- */
static void expect_bad(const char *text, size_t bytes) {
    json *j = NULL;
    status st = json_parse(text, bytes, "bad.json", &j);
    if (st != E_FORMAT || j || !strstr(error_message(), "bad.json")) {
        printf("FAIL: %.60s gave %s: %s\n", text, status_name(st), error_message());
        exit(1);
    }
}

static void test_json(void) {
    int64_t before = mem_live();
    json *j;
    const char *good = "{\"a\":[1,2,{\"b\":\"}]\\\"[\"}]} \n";
    REQUIRE_OK(json_parse(good, strlen(good), "good", &j));
    REQUIRE_EQ(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(j, "a")), 3);
    json_free(j);
    static const char *const bad[] = {"",   " ",    "{",     "[1,]x", "{\"a\":}", "nul",
                                      "\"", "\"\\", "[1] x", "{}{}",  "{'a':1}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) expect_bad(bad[i], strlen(bad[i]));
    expect_bad("[1, 2]", 4); /* the length rules, not what follows */
    char deep[2 * JSON_MAX_DEPTH + 4];
    for (int d = JSON_MAX_DEPTH; d <= JSON_MAX_DEPTH + 1; d++) {
        memset(deep, '[', (size_t)d);
        memset(deep + d, ']', (size_t)d);
        if (d > JSON_MAX_DEPTH)
            expect_bad(deep, 2 * (size_t)d);
        else {
            REQUIRE_OK(json_parse(deep, 2 * (size_t)d, "deep", &j));
            json_free(j);
        }
    }
    size_t many = (size_t)6 << 20; /* "[0,0,0,…": refused before a node is made */
    char *big = mem_alloc(many);
    for (size_t i = 0; i < many; i++) big[i] = i % 2 ? '0' : ',';
    big[0] = '[', big[many - 1] = ']';
    expect_bad(big, many);
    mem_free(big);
    expect_bad("[]", JSON_MAX_BYTES + 1);
    REQUIRE_EQ(mem_live(), before);
}

static void test_json_faults(void) {
    const char *text = "{\"a\":[1,2,3],\"b\":{\"c\":\"text\"}}";
    int64_t before = mem_live(), n = 1;
    for (;; n++) {
        json *j = NULL;
        fault_arm(n);
        status st = json_parse(text, strlen(text), "j", &j);
        fault_arm(0);
        json_free(j);
        REQUIRE_EQ(mem_live(), before);
        if (st == OK) break;
        REQUIRE_EQ(st, E_HOST_MEMORY);
    }
    REQUIRE(n > 5);
}

static void test_machine(void) {
    REQUIRE(os_cpu_count() >= 1);
    uint64_t total = os_memory_total_bytes(), available = os_memory_available_bytes();
    REQUIRE(total >= (uint64_t)64 << 20 && available > 0 && available <= total);
    double t = os_seconds();
    REQUIRE(os_seconds() >= t && !os_cancelled() && os_terminal_columns() > 0);
    REQUIRE(debug_get() == debug_get());
}

int main(void) {
    test_half();
    test_dtype();
    test_philox();
    test_rng();
    test_status();
    test_memory();
    test_arena();
    test_json();
    test_json_faults();
    test_machine();
    REQUIRE_EQ(mem_live(), 0);
    printf("base: ok\n");
    return 0;
}
