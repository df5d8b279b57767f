/* cache.c: compiled plans by key, a dozen at a time: aspect buckets make many shapes, so the least
 * recently used plan goes first. A linear list: lookups are one per step, entries few.
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <stdio.h>

typedef struct entry { char key[192]; plan *p; uint64_t used; } entry;
struct plan_cache { int max, n; uint64_t clock; entry e[]; };

plan_cache *plan_cache_create(int max_plans) {
    plan_cache *c = mem_zalloc(sizeof *c + sizeof(entry) * (size_t)max_plans);
    if (c) c->max = max_plans;
    return c;
}

void plan_cache_destroy(plan_cache *c) {
    if (!c) return;
    for (int i = 0; i < c->n; i++) plan_destroy(c->e[i].p);
    mem_free(c);
}

plan *plan_cache_get(plan_cache *c, const char *key) {
    for (int i = 0; i < c->n; i++) {
        if (strcmp(c->e[i].key, key) != 0) continue;
        c->e[i].used = ++c->clock;
        return c->e[i].p;
    }
    return NULL;
}

status plan_cache_put(plan_cache *c, const char *key, plan *p) {
    if (strlen(key) >= sizeof c->e[0].key) {
        plan_destroy(p);
        return fail(E_USAGE, "plan key '%s' is longer than %zu characters", key, sizeof c->e[0].key - 1);
    }
    int at = c->n;
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->e[i].key, key) == 0) at = i;
    if (at == c->max)
        for (int i = at = 0; i < c->n; i++)
            if (c->e[i].used < c->e[at].used) at = i;
    if (at == c->n) c->n++;
    else plan_destroy(c->e[at].p);
    c->e[at] = (entry){.p = p, .used = ++c->clock};
    snprintf(c->e[at].key, sizeof c->e[at].key, "%s", key);
    return OK;
}
