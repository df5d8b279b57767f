/* mem.c: host blocks, aligned for vector code and cache lines, counted for the leak check of tests,
 * and made to fail by the fault ring.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdatomic.h>
#include <stdlib.h>

#define MEM_ALIGN 64 /* a cache line, an AVX-512 register, an AMX tile row */

static atomic_int_fast64_t live;

void *mem_alloc(size_t bytes) {
    if (fault_hit() || bytes > SIZE_MAX / 2) return NULL;
    void *p = aligned_alloc(MEM_ALIGN, align_up(MAX(bytes, (size_t)1), MEM_ALIGN));
    if (p) atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return p;
}

void *mem_zalloc(size_t bytes) {
    void *p = mem_alloc(bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *mem_realloc(void *p, size_t old_bytes, size_t new_bytes) {
    void *q = mem_alloc(new_bytes); /* realloc would lose the alignment */
    if (!q) return NULL;
    if (p) memcpy(q, p, MIN(old_bytes, new_bytes));
    mem_free(p);
    return q;
}

void mem_free(void *p) {
    if (!p) return;
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(p);
}

int64_t mem_live(void) { return (int64_t)atomic_load(&live); }
