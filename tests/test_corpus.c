/* test_corpus.c: opening the packed corpus, whole and damaged, and the probes, on an excerpt.
 *   test_corpus FOLDER     FOLDER: golden/corpus
 * SPDX-License-Identifier: MIT */
#include "test.h"
#include "train/compose.h"
#include "train/probe.h"

#define COPY "test_corpus_data"
static const char *folder;

/* ---- opening ---- */
static void test_open(void) {
    corpus *c;
    REQUIRE_OK(corpus_open(folder, &c));
    REQUIRE(c->n_styles == 8 && c->n_concepts == 12);
    int splits[SPLIT_COUNT] = {0};
    for (int i = 0; i < c->n_pictures; i++) splits[c->pictures[i].split]++;
    REQUIRE_EQ(splits[SPLIT_TRAIN], 73);
    REQUIRE_EQ(splits[SPLIT_PAIR_HOLDOUT], 8);
    REQUIRE_EQ(splits[SPLIT_SUBJECT_HOLDOUT], 5);
    int fox = corpus_find_concept(c, "1f98a"), flat = corpus_find_style(c, "flat");
    REQUIRE(!strcmp(c->concepts[fox].name, "fox") && c->concepts[fox].group == CORPUS_ANIMALS);
    REQUIRE(c->concepts[fox].n_keywords == 3 && !strcmp(c->concepts[fox].keywords[1], "nature"));
    REQUIRE(!strcmp(c->styles[flat].phrase, "a flat illustration"));
    REQUIRE(!strcmp(c->concepts[corpus_find_concept(c, "1f3dc")].scene_phrase, "in the desert"));
    REQUIRE(corpus_find_concept(c, "1f98") == -1 && corpus_find_style(c, "fl") == -1);
    int cat = corpus_find_concept(c, "1f431"), teapot = corpus_find_concept(c, "1fad6");
    REQUIRE(corpus_trained(c, cat, flat) == c->concepts[cat].picture[flat]);
    REQUIRE(corpus_trained(c, cat, corpus_find_style(c, "noto")) == -1); /* pair held out */
    REQUIRE(corpus_trained(c, teapot, flat) == -1);                      /* subject held out */
    REQUIRE(corpus_trained(c, fox, corpus_find_style(c, "fx")) == -1);   /* not drawn */
    corpus_close(c);
}

/* Sums over all pixels and two pixels, as PIL decodes the same bytes (colour zeroed under alpha 0).
 */
static void test_decode(void) {
    static const struct {
        const char *style, *key;
        int sum[4];
        uint8_t at[2][4];
    } known[] = {
        {"flat",
         "1f98a",
         {1913107, 1205326, 664801, 2088657},
         {{255, 130, 45, 255}, {255, 222, 167, 255}}},
        {"3d",
         "1f34e",
         {2097401, 705425, 889218, 2406700},
         {{239, 61, 87, 255}, {186, 46, 105, 255}}},
        {"line", "1f98a", {0, 0, 0, 1248589}, {{0, 0, 0, 0}, {0, 0, 0, 0}}},
    };
    static uint8_t rgba[CORPUS_RGBA_BYTES];
    corpus *c;
    REQUIRE_OK(corpus_open(folder, &c));
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        int concept = corpus_find_concept(c, known[i].key), sum[4] = {0};
        REQUIRE_OK(corpus_decode(
            c, c->concepts[concept].picture[corpus_find_style(c, known[i].style)], rgba));
        for (size_t p = 0; p < sizeof rgba; p++) sum[p % 4] += rgba[p];
        for (int k = 0; k < 4; k++) {
            REQUIRE_EQ(sum[k], known[i].sum[k]);
            REQUIRE_EQ(rgba[(64 * 128 + 64) * 4 + k], known[i].at[0][k]);
            REQUIRE_EQ(rgba[(100 * 128 + 40) * 4 + k], known[i].at[1][k]);
        }
    }
    corpus_close(c);
}

/* ---- damage: a copy of the folder with one thing changed ---- */
static const char *const names[] = {"styles.tsv", "concepts.tsv", "index.tsv", "3d.pngs",
                                    "flat.pngs",  "line.pngs",    "noto.pngs", "blob.pngs",
                                    "twe.pngs",   "one.pngs",     "fx.pngs"};

static void copy_file(const char *name, const char *find, const char *with) {
    char path[512];
    uint8_t *data, *at = NULL, *out;
    size_t bytes, n = find ? strlen(find) : 0, m = with ? strlen(with) : 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    REQUIRE_OK(file_read(path, 1 << 20, &data, &bytes));
    for (size_t i = 0; find && !at && i + n <= bytes; i++)
        if (!memcmp(data + i, find, n)) at = data + i;
    REQUIRE(!find || at);
    out = mem_alloc(bytes + m);
    size_t before = at ? (size_t)(at - data) : bytes, size = before;
    memcpy(out, data, before);
    if (at) {
        memcpy(out + size, with, m), size += m;
        memcpy(out + size, at + n, bytes - before - n), size += bytes - before - n;
    }
    snprintf(path, sizeof path, COPY "/%s", name);
    REQUIRE_OK(file_write_atomic(path, out, size));
    mem_free(out);
    mem_free(data);
}

static void test_damage(void) {
    static const struct {
        const char *file, *find, *with;
        status st;
        const char *message;
    } cases[] = {
        {"index.tsv", "\n3d\t1f98a\t10683", "\n3d\t1f98a\t10684", E_FORMAT,
         "line 4: offset 10684, but the picture before ends at byte 10683"},
        {"index.tsv", "\n3d\t1f98a\t10683", "\n3d\t1f98a\t-10683", E_FORMAT, "offset -10683"},
        {"index.tsv", "\t6218\ttrain", "\t6219\ttrain", E_FORMAT,
         "length 6219, but 3d.pngs has 6218 bytes after offset 58470"},
        {"index.tsv", "\t6218\ttrain", "\t18446744073709551615\ttrain", E_FORMAT,
         "length 18446744073709551615"},
        {"index.tsv", "\t6218\ttrain", "\t6217\ttrain", E_FORMAT, "end at byte 64687 of 64688"},
        {"index.tsv", "\t5594\ttrain", "\t5593\ttrain", E_FORMAT, "offset 16277"},
        {"index.tsv", "3d\t1f98a", "4d\t1f98a", E_FORMAT, "\"4d\" is not a style of styles.tsv"},
        {"index.tsv", "3d\t1f98a", "3d\t1f98b", E_FORMAT, "\"1f98b\" is not a key"},
        {"index.tsv", "3d\t1f98a", "3d\t1f600", E_FORMAT, "listed a second time"},
        {"index.tsv", "fx\t1f34e", "fx\t1f98a", E_FORMAT, "not announced"},
        {"index.tsv", "\t5594\ttrain", "\t5594\tpair_holdout", E_FORMAT, "is train by the rule"},
        {"index.tsv", "\t5024\tpair_holdout", "\t5024\ttrain", E_FORMAT,
         "is pair_holdout by the rule"},
        {"index.tsv", "\t4759\tsubject_holdout", "\t4759\ttrain", E_FORMAT,
         "is subject_holdout by the rule"},
        {"index.tsv", "\t5594\ttrain\n", "\t5594\ttrain\textra\n", E_FORMAT,
         "6 cells, expected the 5"},
        {"index.tsv", "\t5594\ttrain\n", "\t5594\n", E_FORMAT, "4 cells, expected the 5"},
        {"index.tsv", "\t5594\ttrain\n", "\ta\tb\tc\td\te\tf\tg\th\n", E_FORMAT,
         "more than 8 cells"},
        {"index.tsv", "style\tkey", "Style\tkey", E_FORMAT, "expected the columns"},
        {"concepts.tsv", "Animals & Nature", "Animals", E_FORMAT, "\"Animals\" is not a group"},
        {"concepts.tsv", "\tsubject_holdout\t", "\tpair_holdout\t", E_FORMAT,
         "not train or subject_holdout"},
        {"concepts.tsv", "1f98a\tfox", "1f98a\t", E_FORMAT, "\"\" is not a name"},
        {"concepts.tsv", "1f98a\t", "1f98A\t", E_FORMAT, "not a key"},
        {"concepts.tsv", "1f98a\t", "1f600\t", E_FORMAT, "the key 1f600 occurs twice"},
        {"concepts.tsv", "3d,flat,line,noto,twe\t", "3d,flat,line,noto\t", E_FORMAT,
         "not announced"},
        {"concepts.tsv", "3d,flat,line,noto,twe\t", "3d,flat,line,noto,twe,fx\t", E_FORMAT,
         "announces 1fad6 in the style fx, not listed"},
        {"concepts.tsv", "3d,flat,line,noto,twe\t", "3d,flat,,noto,twe\t", E_FORMAT,
         "\"\" is not a style"},
        {"styles.tsv", "\nflat\t", "\n../flat\t", E_FORMAT, "\"../flat\" is not a new style"},
        {"styles.tsv", "\nflat\t", "\n3d\t", E_FORMAT, "\"3d\" is not a new style"},
        {"styles.tsv", "\nflat\t", "\nflut\t", E_IO, "flut.pngs"},
        {"styles.tsv", "a flat illustration", "", E_FORMAT, "not a phrase"},
        {"styles.tsv", "\t64688\t", "\t64689\t", E_FORMAT, "64688 bytes, styles.tsv says 64689"},
        {"styles.tsv", "\t12\t64688\t", "\t13\t64688\t", E_FORMAT,
         "12 pictures of the style 3d, styles.tsv says 13"},
        {"styles.tsv", "\t12\t64688\t", "\t0\t64688\t", E_FORMAT, "not a number of pictures"},
        {"flat.pngs", "\x89PNG", "\x89PMG", E_FORMAT, "no PNG file starts at byte 0 of flat.pngs"},
        {"flat.pngs", "IEND", "", E_FORMAT, "truncated, or of another build"},
    };
    corpus *c;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t k = 0; k < ARRAY_LEN(names); k++) copy_file(names[k], NULL, NULL);
        copy_file(cases[i].file, cases[i].find, cases[i].with);
        int64_t live = mem_live();
        error_clear();
        status st = corpus_open(COPY, &c);
        if (st != cases[i].st || !strstr(error_message(), cases[i].message)) {
            printf("FAIL damage %zu: %s, \"%s\"; expected \"%s\"\n", i, status_name(st),
                   error_message(), cases[i].message);
            exit(1);
        }
        REQUIRE(c == NULL && mem_live() == live);
    }
}

/* What no replacement of text can do. */
static void test_more_damage(void) {
    static uint8_t rgba[CORPUS_RGBA_BYTES];
    uint8_t *data;
    size_t bytes;
    corpus *c;
    for (size_t k = 0; k < ARRAY_LEN(names); k++) copy_file(names[k], NULL, NULL);
    REQUIRE_OK(file_read(COPY "/index.tsv", 1 << 20, &data, &bytes));
    REQUIRE_OK(file_write_atomic(COPY "/index.tsv", data, bytes - 1));
    REQUIRE_EQ(corpus_open(COPY, &c), E_FORMAT);
    REQUIRE(strstr(error_message(), "has no end: the file is truncated"));
    data[bytes / 2] = 0;
    REQUIRE_OK(file_write_atomic(COPY "/index.tsv", data, bytes));
    REQUIRE_EQ(corpus_open(COPY, &c), E_FORMAT);
    REQUIRE(strstr(error_message(), "zero byte"));
    REQUIRE_OK(file_write_atomic(COPY "/index.tsv", data, 30)); /* the header and a part of a row */
    REQUIRE_EQ(corpus_open(COPY, &c), E_FORMAT);
    REQUIRE_OK(file_write_atomic(COPY "/index.tsv", "", 0));
    REQUIRE_EQ(corpus_open(COPY, &c), E_FORMAT);
    REQUIRE_EQ(corpus_open(COPY "/none", &c), E_IO);
    mem_free(data);

    /* pixels that do not decode: an error for that picture, and a composer that needs it says so */
    copy_file("index.tsv", NULL, NULL);
    REQUIRE_OK(file_read(COPY "/flat.pngs", 1 << 20, &data, &bytes));
    memset(data + 600, 0x55, 200);
    REQUIRE_OK(file_write_atomic(COPY "/flat.pngs", data, bytes));
    REQUIRE_OK(corpus_open(COPY, &c));
    int flat = corpus_find_style(c, "flat");
    REQUIRE_EQ(corpus_decode(c, c->concepts[0].picture[flat], rgba), E_FORMAT);
    REQUIRE(strstr(error_message(), "flat.pngs at byte 0"));
    REQUIRE_OK(corpus_decode(c, c->concepts[2].picture[flat], rgba));
    composer *m;
    compose_feed *f;
    compose_params p = compose_stage_a;
    static compose_info info[64];
    uint8_t *rgb = mem_alloc(64 * COMPOSE_RGB_BYTES);
    REQUIRE_OK(composer_create(c, &p, &m));
    REQUIRE_OK(compose_feed_open(m, 2, 8, 0, &f));
    status st = OK;
    for (int i = 0; i < 20 && st == OK; i++) st = compose_feed_next(f, 64, rgb, info);
    REQUIRE(st == E_FORMAT && strstr(error_message(), "flat.pngs at byte 0"));
    REQUIRE_EQ(compose_feed_next(f, 1, rgb, info), E_FORMAT); /* and stays so */
    compose_feed_close(f);
    composer_destroy(m);
    corpus_close(c);
    mem_free(rgb);
    mem_free(data);
}

static const corpus_picture *picture_of(const corpus *c, int p) { return &c->pictures[p]; }

/* ---- probes ---- */
static void test_probes(void) {
    corpus *c;
    arena a = {0};
    probe *list, *again;
    int n, m;
    REQUIRE_OK(corpus_open(folder, &c));
    REQUIRE_OK(probe_list(c, 200, 4, &a, &list, &n));
    REQUIRE_OK(probe_list(c, 2, 1000, &a, &again, &m));
    REQUIRE(n == 8 && m == 2);
    for (int i = 0; i < n; i++) {
        const corpus_picture *p = picture_of(c, list[i].picture),
                             *q = picture_of(c, list[i].sibling);
        REQUIRE(p->split == SPLIT_PAIR_HOLDOUT && q->split == SPLIT_TRAIN);
        REQUIRE(p->concept == q->concept && p->style != q->style);
        REQUIRE_EQ(list[i].n_candidates, 4);
        int found = 0;
        for (int k = 0; k < 4; k++) {
            const corpus_picture *r = picture_of(c, list[i].candidate[k]);
            found += r == p;
            REQUIRE(r->style == p->style && c->concepts[r->concept].group != CORPUS_SYMBOLS);
            REQUIRE(k == 0 || list[i].candidate[k - 1] < list[i].candidate[k]);
        }
        REQUIRE_EQ(found, 1);
    }
    for (int i = 0; i < m;
         i++) { /* asking for fewer, or for more candidates, asks the same questions */
        REQUIRE_EQ(again[i].picture, list[i].picture);
        const corpus_style *s = &c->styles[picture_of(c, again[i].picture)->style];
        REQUIRE_EQ(again[i].n_candidates,
                   s->n_pictures - !!strcmp(s->name, "fx")); /* all but the symbol */
    }
    arena_fini(&a);
    corpus_close(c);
}

int main(int argc, char **argv) {
    if (argc < 2) return fputs("usage: test_corpus FOLDER\n", stderr), 2;
    folder = argv[1];
    REQUIRE_OK(os_mkdir_p(COPY));
    test_open();
    test_decode();
    test_damage();
    test_more_damage();
    test_probes();
    REQUIRE_EQ(mem_live(), 0);
    puts("corpus: ok");
    return 0;
}
