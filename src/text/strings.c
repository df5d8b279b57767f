/* strings.c: hash tables of the room: strings to ids while a vocabulary is loaded, pairs of ids to
 * their merge for good. Open addressing, at most half full, power-of-two sizes.
 * SPDX-License-Identifier: MIT */
#include "text/text_internal.h"

#define NO_PAIR UINT64_MAX /* left and right are NO_ID: no merge has that */

static uint64_t mix(uint64_t h) { /* the finaliser of splitmix64 */
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

static uint64_t hash_string(const char *s, size_t n) { /* FNV-1a */
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return mix(h);
}

/* ---- strings ---- */
static string_slot *string_slot_of(const string_map *m, const char *s, size_t n) {
    size_t i = (size_t)hash_string(s, n) & m->mask;
    while (m->slot[i].s && !(m->slot[i].n == n && !memcmp(m->slot[i].s, s, n)))
        i = (i + 1) & m->mask;
    return &m->slot[i];
}

status string_map_put(string_map *m, const char *s, size_t n, uint32_t value) {
    if (n > UINT32_MAX) return fail(E_FORMAT, "a token of %zu bytes", n);
    if (!m->slot || m->n * 2 > m->mask) {
        string_map wider = {.mask = m->slot ? m->mask * 2 + 1 : 1023, .n = m->n};
        wider.slot = mem_zalloc((wider.mask + 1) * sizeof *wider.slot);
        if (!wider.slot) return fail(E_HOST_MEMORY, "no memory for a table of %zu tokens", m->n);
        for (size_t i = 0; m->slot && i <= m->mask; i++)
            if (m->slot[i].s) *string_slot_of(&wider, m->slot[i].s, m->slot[i].n) = m->slot[i];
        mem_free(m->slot);
        *m = wider;
    }
    string_slot *slot = string_slot_of(m, s, n);
    m->n += !slot->s;
    *slot = (string_slot){s, (uint32_t)n, value};
    return OK;
}

uint32_t string_map_get(const string_map *m, const char *s, size_t n) {
    const string_slot *slot = m->slot ? string_slot_of(m, s, n) : NULL;
    return slot && slot->s ? slot->value : NO_ID;
}

void string_map_fini(string_map *m) {
    mem_free(m->slot);
    *m = (string_map){0};
}

/* ---- pairs ---- */
static merge *merge_slot_of(const merge_map *m, uint64_t pair) {
    size_t i = (size_t)mix(pair) & m->mask;
    while (m->slot[i].pair != NO_PAIR && m->slot[i].pair != pair) i = (i + 1) & m->mask;
    return &m->slot[i];
}

status merge_map_put(merge_map *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {
    if (!m->slot || m->n * 2 > m->mask) {
        merge_map wider = {.mask = m->slot ? m->mask * 2 + 1 : 1023, .n = m->n};
        wider.slot = mem_alloc((wider.mask + 1) * sizeof *wider.slot);
        if (!wider.slot) return fail(E_HOST_MEMORY, "no memory for a table of %zu merges", m->n);
        for (size_t i = 0; i <= wider.mask; i++) wider.slot[i] = (merge){.pair = NO_PAIR};
        for (size_t i = 0; m->slot && i <= m->mask; i++)
            if (m->slot[i].pair != NO_PAIR) *merge_slot_of(&wider, m->slot[i].pair) = m->slot[i];
        mem_free(m->slot);
        *m = wider;
    }
    merge *slot = merge_slot_of(m, (uint64_t)left << 32 | right);
    m->n += slot->pair == NO_PAIR;
    *slot = (merge){(uint64_t)left << 32 | right, rank, id};
    return OK;
}

const merge *merge_map_get(const merge_map *m, uint32_t left, uint32_t right) {
    const merge *slot = m->slot ? merge_slot_of(m, (uint64_t)left << 32 | right) : NULL;
    return slot && slot->pair != NO_PAIR ? slot : NULL;
}

void merge_map_fini(merge_map *m) {
    mem_free(m->slot);
    *m = (merge_map){0};
}
