/* arena.c: bump allocation for things that die together (a graph's nodes, a plan's tables).
 * Blocks double from 16 KiB to 1 MiB, so small graphs stay small and large ones need few blocks.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>

#define BLOCK_MIN   ((size_t)16 << 10)
#define BLOCK_MAX   ((size_t)1 << 20)
#define ARENA_ALIGN ((size_t)16)

struct arena_block {
    struct arena_block *next;
    size_t used, bytes; /* of data */
    _Alignas(16) unsigned char data[];
};

void *arena_alloc(arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = align_up(MAX(bytes, (size_t)1), ARENA_ALIGN);
    struct arena_block *b = a->head;
    if (!b || b->bytes - b->used < bytes) {
        size_t want = b ? MIN(MAX(b->bytes * 2, BLOCK_MIN), BLOCK_MAX) : BLOCK_MIN;
        bool alone =
            bytes > want / 4; /* a big one gets its own block and the open block stays open */
        if (alone) want = bytes;
        struct arena_block *fresh = mem_zalloc(sizeof *fresh + want);
        if (!fresh) return NULL;
        fresh->bytes = want;
        a->total_bytes += sizeof *fresh + want;
        if (alone && b) {
            fresh->next = b->next;
            b->next = fresh;
        } else {
            fresh->next = b;
            a->head = fresh;
        }
        b = fresh;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

char *arena_printf(arena *a, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (text) vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return text;
}

void arena_fini(arena *a) {
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    *a = (arena){0};
}
