/* corpus.c: opening and checking the packed corpus. Tables are read once and cut in place: strings
 * point into them. Pictures are mapped and decoded on demand: decoded they would take 700 MB.
 * SPDX-License-Identifier: MIT */
#include "train/corpus.h"

#include "file/image.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define TABLE_MAX_BYTES ((size_t)64 << 20)
#define NAME_MAX_BYTES  64 /* of phrases and names: what a caption has room for */
#define HOLDOUT_MODULUS 20u
#define SHOWN(s)        80, (s) /* for %.*s: a hostile cell may be megabytes long */

typedef struct corpus_key {
    const char *key;
    int concept;
} corpus_key;

struct corpus_files {
    arena mem;
    char *folder;
    uint8_t *table[3];
    file_map map[CORPUS_MAX_STYLES];
    corpus_key *by_key; /* n_concepts, sorted */
};

static const char *const group_names[CORPUS_GROUP_COUNT] = {
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink",
    "Travel & Places",   "Activities",    "Objects",          "Symbols"};
static const char *const split_names[SPLIT_COUNT] = {"train", "pair_holdout", "subject_holdout"};

/* ---- tables ---- */
#define MAX_CELLS 8
typedef struct table {
    const char *name;    /* of the file */
    const char *columns; /* the header line that it must have */
    uint8_t *data;
    char *next, *end;
    int line, n_cells, n_rows; /* n_rows: as counted when it was opened */
    char *cell[MAX_CELLS];
} table;

static status row_fail(const table *t, const char *seen, const char *expected) {
    return fail(E_FORMAT, "%s line %d: \"%.*s\" is not %s", t->name, t->line, SHOWN(seen),
                expected);
}

/* Cuts the next line into its cells. */
static status table_row(table *t) {
    char *s = t->next, *end = memchr(s, '\n', (size_t)(t->end - s));
    int n = 0;
    t->line++;
    if (!end)
        return fail(E_FORMAT, "%s line %d has no end: the file is truncated", t->name, t->line);
    *end = 0;
    t->next = end + 1;
    for (char *tab; n < MAX_CELLS && s; n++, s = tab) {
        t->cell[n] = s;
        tab = strchr(s, '\t');
        if (tab) *tab++ = 0;
    }
    if (n != t->n_cells || s)
        return fail(E_FORMAT, "%s line %d: %s%d cells, expected the %d of \"%s\"", t->name, t->line,
                    s ? "more than " : "", n, t->n_cells, t->columns);
    return OK;
}

static status table_open(table *t, struct corpus_files *f, int slot, const char *name,
                         const char *columns) {
    size_t bytes;
    char *path = arena_printf(&f->mem, "%s/%s", f->folder, name);
    *t = (table){.name = path, .columns = columns, .n_cells = 1};
    if (!path) return fail(E_HOST_MEMORY, "%s: no memory to open it", name);
    for (const char *s = columns; *s; s++) t->n_cells += *s == '\t';
    assert(t->n_cells <= MAX_CELLS);
    status st = file_read(path, TABLE_MAX_BYTES, &f->table[slot], &bytes);
    if (st != OK) return st;
    t->data = f->table[slot], t->next = (char *)t->data, t->end = t->next + bytes;
    size_t head = strlen(columns);
    if (memchr(t->data, 0, bytes))
        return fail(E_FORMAT, "%s: holds a zero byte: it is no table", path);
    if (bytes <= head || memcmp(t->data, columns, head) || t->next[head] != '\n')
        return fail(E_FORMAT, "%s line 1: expected the columns \"%s\"", path, columns);
    t->next += head + 1, t->line = 1;
    for (const char *s = t->next; s < t->end; s++) t->n_rows += *s == '\n';
    if (t->n_rows == 0) return fail(E_FORMAT, "%s: has no rows", path);
    return OK;
}

static bool read_size(const char *s, size_t *out) {
    size_t v = 0, n = strlen(s);
    if (n == 0 || n > 15) return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return false;
        v = v * 10 + (size_t)(*s - '0');
    }
    *out = v;
    return true;
}

static int find_name(const char *const *names, int n, const char *s) {
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], s)) return i;
    return -1;
}

/* Only [a-z0-9-]: a style names a file, a key is hashed. */
static bool is_plain(const char *s, size_t most) {
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n > 0 && n <= most && s[n] == 0;
}

static bool is_phrase(const char *s) { return s[0] && strlen(s) <= NAME_MAX_BYTES; }

/* ---- styles.tsv ---- */
static status read_styles(corpus *c, table *t, size_t *bytes) {
    if (t->n_rows > CORPUS_MAX_STYLES)
        return fail(E_UNSUPPORTED, "%s: %d styles, at most %d", t->name, t->n_rows,
                    CORPUS_MAX_STYLES);
    c->styles = arena_new(&c->files->mem, corpus_style, t->n_rows);
    if (!c->styles) return fail(E_HOST_MEMORY, "%s: no memory for %d styles", t->name, t->n_rows);
    while (t->next < t->end) {
        status st = table_row(t);
        if (st != OK) return st;
        char **cell = t->cell;
        size_t n;
        if (!is_plain(cell[0], 15) || corpus_find_style(c, cell[0]) >= 0)
            return row_fail(t, cell[0], "a new style's short name");
        if (!is_phrase(cell[1])) return row_fail(t, cell[1], "a phrase for captions");
        if (!read_size(cell[2], &n) || n == 0 || n > INT32_MAX)
            return row_fail(t, cell[2], "a number of pictures");
        if (!read_size(cell[3], &bytes[c->n_styles]))
            return row_fail(t, cell[3], "a size in bytes");
        c->styles[c->n_styles++] = (corpus_style){.name = cell[0],
                                                  .phrase = cell[1],
                                                  .licence = cell[6],
                                                  .attribution = cell[7],
                                                  .n_pictures = (int)n};
    }
    return OK;
}

/* ---- concepts.tsv ---- */
static status read_keywords(corpus *c, table *t, char *cell, corpus_concept *to) {
    if (!*cell) return OK;
    int n = 1;
    for (const char *s = cell; *s; s++) n += *s == ',';
    const char **list = arena_new(&c->files->mem, const char *, n);
    if (!list) return fail(E_HOST_MEMORY, "%s: no memory for keywords", t->name);
    to->keywords = list;
    for (char *s = cell, *comma; s; s = comma) {
        list[to->n_keywords++] = s;
        comma = strchr(s, ',');
        if (comma) *comma++ = 0;
    }
    return OK;
}

/* The column "styles" repeats what the index says; both must agree, so mark it for read_index. */
enum { EXPECTED = -2, ABSENT = -1 };

static status read_drawn_styles(const corpus *c, const table *t, char *cell, corpus_concept *to) {
    for (int s = 0; s < CORPUS_MAX_STYLES; s++) to->picture[s] = ABSENT;
    for (char *s = cell, *comma; s; s = comma) {
        comma = strchr(s, ',');
        if (comma) *comma++ = 0;
        int style = corpus_find_style(c, s);
        if (style < 0) return row_fail(t, s, "a style of styles.tsv");
        to->picture[style] = EXPECTED;
    }
    return OK;
}

static status read_concept(corpus *c, table *t) {
    status st = table_row(t);
    if (st != OK) return st;
    char **cell = t->cell;
    corpus_concept *to = &c->concepts[c->n_concepts];
    int group = find_name(group_names, CORPUS_GROUP_COUNT, cell[2]);
    int split = find_name(split_names, SPLIT_COUNT, cell[4]);
    if (!is_plain(cell[0], NAME_MAX_BYTES)) return row_fail(t, cell[0], "a key");
    if (!is_phrase(cell[1])) return row_fail(t, cell[1], "a name for captions");
    if (group < 0) return row_fail(t, cell[2], "a group that captions and weights know");
    if (strlen(cell[3]) > NAME_MAX_BYTES) return row_fail(t, cell[3], "a short scene phrase");
    if (split != SPLIT_TRAIN && split != SPLIT_SUBJECT_HOLDOUT)
        return row_fail(t, cell[4], "train or subject_holdout");
    to->key = cell[0], to->name = cell[1], to->scene_phrase = cell[3];
    to->group = (corpus_group)group, to->split = (corpus_split)split;
    st = read_drawn_styles(c, t, cell[5], to);
    if (st == OK) st = read_keywords(c, t, cell[6], to);
    c->files->by_key[c->n_concepts] = (corpus_key){to->key, c->n_concepts};
    c->n_concepts++;
    return st;
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(((const corpus_key *)a)->key, ((const corpus_key *)b)->key);
}

static status read_concepts(corpus *c, table *t) {
    struct corpus_files *f = c->files;
    c->concepts = arena_new(&f->mem, corpus_concept, t->n_rows);
    f->by_key = arena_new(&f->mem, corpus_key, t->n_rows);
    if (!c->concepts || !f->by_key)
        return fail(E_HOST_MEMORY, "%s: no memory for %d rows", t->name, t->n_rows);
    while (t->next < t->end) {
        status st = read_concept(c, t);
        if (st != OK) return st;
    }
    qsort(f->by_key, (size_t)c->n_concepts, sizeof *f->by_key, compare_keys);
    for (int i = 1; i < c->n_concepts; i++)
        if (!strcmp(f->by_key[i - 1].key, f->by_key[i].key))
            return fail(E_FORMAT, "%s: the key %s occurs twice", t->name, f->by_key[i].key);
    return OK;
}

/* ---- index.tsv ---- */
static corpus_split expected_split(const corpus_style *s, const corpus_concept *k) {
    char text[16 + 1 + NAME_MAX_BYTES + 1];
    if (k->split != SPLIT_TRAIN) return k->split;
    snprintf(text, sizeof text, "%s:%s", s->name, k->key);
    uint32_t hash = rng_stream(text); /* FNV-1a, as the corpus's rule */
    return hash % HOLDOUT_MODULUS == 0 ? SPLIT_PAIR_HOLDOUT : SPLIT_TRAIN;
}

static status read_picture(corpus *c, table *t, size_t *end, int *count) {
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    status st = table_row(t);
    if (st != OK) return st;
    char **cell = t->cell;
    int style = corpus_find_style(c, cell[0]), concept = corpus_find_concept(c, cell[1]);
    int split = find_name(split_names, SPLIT_COUNT, cell[4]);
    size_t offset, length;
    if (style < 0) return row_fail(t, cell[0], "a style of styles.tsv");
    if (concept < 0) return row_fail(t, cell[1], "a key of concepts.tsv");
    corpus_concept *k = &c->concepts[concept];
    const file_map *map = &c->files->map[style];
    if (k->picture[style] != EXPECTED)
        return fail(E_FORMAT, "%s line %d: %s in the style %s is %s", t->name, t->line, k->key,
                    c->styles[style].name,
                    k->picture[style] == ABSENT ? "not announced in concepts.tsv"
                                                : "listed a second time");
    if (!read_size(cell[2], &offset) || offset != end[style])
        return fail(E_FORMAT, "%s line %d: offset %.*s, but the picture before ends at byte %zu",
                    t->name, t->line, SHOWN(cell[2]), end[style]);
    if (!read_size(cell[3], &length) || length < sizeof png || length > map->bytes - offset)
        return fail(E_FORMAT, "%s line %d: length %.*s, but %s.pngs has %zu bytes after offset %zu",
                    t->name, t->line, SHOWN(cell[3]), c->styles[style].name, map->bytes - offset,
                    offset);
    if (memcmp(map->data + offset, png, sizeof png))
        return fail(E_FORMAT, "%s line %d: no PNG file starts at byte %zu of %s.pngs", t->name,
                    t->line, offset, c->styles[style].name);
    corpus_split rule = expected_split(&c->styles[style], k);
    if (split < 0 || split != (int)rule)
        return fail(E_FORMAT,
                    "%s line %d: split \"%.*s\", but %s in the style %s is %s by the rule", t->name,
                    t->line, SHOWN(cell[4]), k->key, c->styles[style].name, split_names[rule]);
    k->picture[style] = c->n_pictures;
    c->pictures[c->n_pictures++] = (corpus_picture){style, concept, rule, offset, length};
    end[style] += length, count[style]++;
    return OK;
}

static status read_index(corpus *c, table *t) {
    size_t end[CORPUS_MAX_STYLES] = {0};
    int count[CORPUS_MAX_STYLES] = {0};
    c->pictures = arena_new(&c->files->mem, corpus_picture, t->n_rows);
    if (!c->pictures) return fail(E_HOST_MEMORY, "%s: no memory for %d rows", t->name, t->n_rows);
    while (t->next < t->end) {
        status st = read_picture(c, t, end, count);
        if (st != OK) return st;
    }
    for (int s = 0; s < c->n_styles; s++) {
        if (count[s] != c->styles[s].n_pictures)
            return fail(E_FORMAT, "%s: %d pictures of the style %s, styles.tsv says %d", t->name,
                        count[s], c->styles[s].name, c->styles[s].n_pictures);
        if (end[s] != c->files->map[s].bytes)
            return fail(E_FORMAT, "%s: the pictures of %s.pngs end at byte %zu of %zu", t->name,
                        c->styles[s].name, end[s], c->files->map[s].bytes);
    }
    for (int i = 0; i < c->n_concepts; i++)
        for (int s = 0; s < c->n_styles; s++)
            if (c->concepts[i].picture[s] == EXPECTED)
                return fail(E_FORMAT, "%s: concepts.tsv announces %s in the style %s, not listed",
                            t->name, c->concepts[i].key, c->styles[s].name);
    return OK;
}

/* ---- the whole ---- */
static status map_pictures(corpus *c, const size_t *bytes) {
    struct corpus_files *f = c->files;
    for (int s = 0; s < c->n_styles; s++) {
        char *path = arena_printf(&f->mem, "%s/%s.pngs", f->folder, c->styles[s].name);
        if (!path) return fail(E_HOST_MEMORY, "%s: no memory to open it", f->folder);
        status st = file_map_open(path, &f->map[s]);
        if (st != OK) return st;
        if (f->map[s].bytes != bytes[s])
            return fail(E_FORMAT,
                        "%s: %zu bytes, styles.tsv says %zu: truncated, or of another build", path,
                        f->map[s].bytes, bytes[s]);
    }
    return OK;
}

status corpus_open(const char *folder, corpus **out) {
    status st = OK;
    table styles, concepts, index;
    size_t bytes[CORPUS_MAX_STYLES];
    *out = NULL;
    corpus *c = mem_zalloc(sizeof *c);
    if (c) c->files = mem_zalloc(sizeof *c->files);
    if (c && c->files) c->files->folder = arena_printf(&c->files->mem, "%s", folder);
    if (!c || !c->files || !c->files->folder) {
        st = fail(E_HOST_MEMORY, "%s: no memory to open the corpus", folder);
        goto out;
    }
    TRY(table_open(&styles, c->files, 0, "styles.tsv",
                   "style\tphrase\timages\tbytes\tnpm_package\tversion\tlicence\tattribution"));
    TRY(read_styles(c, &styles, bytes));
    TRY(map_pictures(c, bytes));
    TRY(table_open(&concepts, c->files, 1, "concepts.tsv",
                   "key\tname\tgroup\tscene_phrase\tsplit\tstyles\tkeywords"));
    TRY(read_concepts(c, &concepts));
    TRY(table_open(&index, c->files, 2, "index.tsv", "style\tkey\toffset\tlength\tsplit"));
    TRY(read_index(c, &index));
    *out = c;
    c = NULL;
out:
    corpus_close(c);
    return st;
}

void corpus_close(corpus *c) {
    if (!c) return;
    if (c->files) {
        for (int s = 0; s < CORPUS_MAX_STYLES; s++) file_map_close(&c->files->map[s]);
        for (int t = 0; t < 3; t++) mem_free(c->files->table[t]);
        arena_fini(&c->files->mem);
    }
    mem_free(c->files);
    mem_free(c);
}

status corpus_decode(const corpus *c, int picture, uint8_t *rgba) {
    assert(picture >= 0 && picture < c->n_pictures);
    const corpus_picture *p = &c->pictures[picture];
    char what[96];
    image im = {0};
    snprintf(what, sizeof what, "%s.pngs at byte %zu", c->styles[p->style].name, p->offset);
    status st = image_decode(c->files->map[p->style].data + p->offset, p->length, what, &im);
    if (st == OK && (im.w != CORPUS_SIDE || im.h != CORPUS_SIDE || im.channels < 3))
        st = fail(E_FORMAT, "%s: %d x %d pixels of %d channels, expected %d x %d in colour", what,
                  im.w, im.h, im.channels, CORPUS_SIDE, CORPUS_SIDE);
    for (size_t i = 0; st == OK && i < (size_t)CORPUS_SIDE * CORPUS_SIDE; i++) {
        const uint8_t *from = im.px + i * (size_t)im.channels;
        uint8_t alpha = im.channels == 4 ? from[3] : 255, *to = rgba + i * 4;
        for (int k = 0; k < 3; k++) to[k] = alpha ? from[k] : 0;
        to[3] = alpha;
    }
    image_free(&im);
    return st;
}

int corpus_find_style(const corpus *c, const char *name) {
    for (int i = 0; i < c->n_styles; i++)
        if (!strcmp(c->styles[i].name, name)) return i;
    return -1;
}

int corpus_find_concept(const corpus *c, const char *key) {
    corpus_key wanted = {key, 0};
    const corpus_key *k =
        bsearch(&wanted, c->files->by_key, (size_t)c->n_concepts, sizeof wanted, compare_keys);
    return k ? k->concept : -1;
}

int corpus_trained(const corpus *c, int concept, int style) {
    int p = c->concepts[concept].picture[style];
    return p >= 0 && c->pictures[p].split == SPLIT_TRAIN ? p : -1;
}

void corpus_on_white(const uint8_t *rgba, uint8_t *rgb) {
    for (size_t i = 0; i < (size_t)CORPUS_SIDE * CORPUS_SIDE; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + (size_t)c] = (uint8_t)((rgba[4 * i + (size_t)c] * rgba[4 * i + 3] +
                                                255 * (255 - rgba[4 * i + 3]) + 127) /
                                               255);
}
