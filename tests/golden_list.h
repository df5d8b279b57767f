/* golden_list.h: lists of lists in a golden file: all items in one tensor, where each list ends in
 * another. SPDX-License-Identifier: MIT */
#pragma once
#include "test.h"
#include "file/file.h"

static safetensors *golden; /* the test opens it */

typedef struct list {
    const safetensor *items, *ends;
    int64_t n;
} list;

static const safetensor *find(const char *name) {
    const safetensor *t = safetensors_find(golden, name);
    if (!t) printf("FAIL: the golden file has no %s\n", name), exit(1);
    return t;
}

static int64_t number(const safetensor *t, int64_t i) { return (int64_t)safetensor_load(t, i); }

static list find_list(const char *items, const char *ends) {
    list l = {find(items), find(ends), 0};
    l.n = safetensor_count(l.ends);
    return l;
}

static int64_t list_start(list l, int64_t i) { return i ? number(l.ends, i - 1) : 0; }
static int64_t list_length(list l, int64_t i) { return number(l.ends, i) - list_start(l, i); }

/* Prints what differs. */
static bool same_ids(list want, int64_t i, const uint32_t *ids, int n) {
    bool same = list_length(want, i) == n;
    for (int k = 0; k < n && same; k++)
        same = number(want.items, list_start(want, i) + k) == ids[k];
    if (same) return true;
    printf("list %lld: expected", (long long)i);
    for (int64_t k = 0; k < list_length(want, i); k++)
        printf(" %lld", (long long)number(want.items, list_start(want, i) + k));
    printf("\n  but there are");
    for (int k = 0; k < n; k++) printf(" %u", ids[k]);
    printf("\n");
    return false;
}
