/* probe.c: chosen by hash: anyone can recompute the choice, and nobody chose it.
 * SPDX-License-Identifier: MIT */
#include "train/probe.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct ranked {
    uint32_t rank;
    int picture;
} ranked;

static uint32_t rank_of(const corpus *c, const char *salt, int picture) {
    char text[192];
    const corpus_picture *p = &c->pictures[picture];
    snprintf(text, sizeof text, "%s:%s:%s", salt, c->styles[p->style].name,
             c->concepts[p->concept].key);
    return rng_stream(text);
}

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->picture - y->picture;
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static bool is_symbol(const corpus *c, int picture) {
    return c->concepts[c->pictures[picture].concept].group == CORPUS_SYMBOLS;
}

/* Vector styles are each other's best likeness; black ink is nobody's. */
static int find_sibling(const corpus *c, int picture) {
    const corpus_picture *p = &c->pictures[picture];
    static const char *const order[] = {"flat", "3d"};
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        int s = corpus_find_style(c, order[i]);
        int q = s >= 0 && s != p->style ? corpus_trained(c, p->concept, s) : -1;
        if (q >= 0) return q;
    }
    int last = -1;
    for (int s = 0; s < c->n_styles; s++) {
        int q = s != p->style ? corpus_trained(c, p->concept, s) : -1;
        if (q >= 0 && (last < 0 || strcmp(c->styles[s].name, "line"))) last = q;
    }
    return last;
}

static status list_candidates(const corpus *c, int n, arena *a, ranked *work, probe *to) {
    const int style = c->pictures[to->picture].style;
    int found = 0;
    for (int i = 0; i < c->n_pictures; i++) {
        if (c->pictures[i].style != style || is_symbol(c, i) || i == to->picture) continue;
        work[found++] =
            (ranked){rank_of(c, c->concepts[c->pictures[to->picture].concept].key, i), i};
    }
    qsort(work, (size_t)found, sizeof *work, by_rank);
    const int count = MIN(n, found + 1);
    int *list = arena_new(a, int, count);
    if (!list) return fail(E_HOST_MEMORY, "probe: no memory for %d candidates", n);
    list[0] = to->picture;
    for (int i = 1; i < count; i++) list[i] = work[i - 1].picture;
    qsort(list, (size_t)count, sizeof *list, by_number); /* the place must not tell the answer */
    to->candidate = list, to->n_candidates = count;
    return OK;
}

status probe_list(const corpus *c, int n, int n_candidates, arena *a, probe **out, int *n_out) {
    status st = OK;
    int found = 0;
    *out = NULL, *n_out = 0;
    if (n < 1 || n_candidates < 1)
        return fail(E_USAGE, "probe: %d probes of %d candidates; give at least one of each", n,
                    n_candidates);
    ranked *work = mem_alloc(sizeof *work * (size_t)c->n_pictures), *chosen = NULL;
    probe *list = NULL;
    if (!work) {
        st = fail(E_HOST_MEMORY, "probe: no memory for %d pictures", c->n_pictures);
        goto out;
    }
    for (int i = 0; i < c->n_pictures; i++)
        if (c->pictures[i].split == SPLIT_PAIR_HOLDOUT && !is_symbol(c, i) &&
            find_sibling(c, i) >= 0)
            work[found++] = (ranked){rank_of(c, "probe", i), i};
    qsort(work, (size_t)found, sizeof *work, by_rank);
    found = MIN(found, n);
    list = arena_new(a, probe, found);
    chosen = mem_alloc(sizeof *chosen * (size_t)MAX(found, 1));
    if (!list || !chosen) {
        st = fail(E_HOST_MEMORY, "probe: no memory for %d probes", found);
        goto out;
    }
    memcpy(chosen, work, sizeof *chosen * (size_t)found);
    for (int i = 0; i < found; i++) {
        list[i] =
            (probe){.picture = chosen[i].picture, .sibling = find_sibling(c, chosen[i].picture)};
        TRY(list_candidates(c, n_candidates, a, work, &list[i]));
    }
    *out = list, *n_out = found;
out:
    mem_free(chosen);
    mem_free(work);
    return st;
}
