/* test.h: what the plain main() tests share. A failed REQUIRE prints the expression (and both operands for
 * REQUIRE_EQ) and exits 1; exit 77 = skipped.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("FAIL %s: %s   [last error: %s]\n", HERE, #cond, error_message());              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define REQUIRE_OK(call)                                                                           \
    do {                                                                                           \
        if ((call) != OK) {                                                                        \
            printf("FAIL %s: %s: %s\n%s", HERE, #call, error_message(), error_backtrace());        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define REQUIRE_EQ(a, b)                                                                           \
    do {                                                                                           \
        long long a_ = (long long)(a), b_ = (long long)(b);                                        \
        if (a_ != b_) {                                                                            \
            printf("FAIL %s: %s is %lld, %s is %lld\n", HERE, #a, a_, #b, b_);                     \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* CHECK says what is wrong, in printf's words, and goes on; main returns g_failures != 0. */
static int g_failures __attribute__((unused));
#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            g_failures++;                                                                          \
            printf("FAIL %s: ", HERE);                                                             \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

/* Debug builds open Vulkan devices with the validation layer, whose messages are failures. */
#ifndef TEST_VALIDATION
#define TEST_VALIDATION false
#endif
