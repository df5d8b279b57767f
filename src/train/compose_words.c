/* compose_words.c: captions.
 *   one    a glossy 3D render of a green fox on a yellow background, animal
 *   scene  a simple clip art of a robot in the desert
 *   pair   a flat illustration of a fox and a teapot
 *   grid   four pictures [TOP-LEFT] a flat illustration of a fox [TOP-RIGHT] a black ink drawing of
 *          a fox [BOTTOM-LEFT] ... [BOTTOM-RIGHT] ...
 *          a flat illustration of a fox, four pictures [TOP-LEFT] on a white background ...
 * Panel markers as in In-Context LoRA (Huang et al. 2024).
 * SPDX-License-Identifier: MIT */
#include "train/compose_words.h"

#include <assert.h>

#define WORD_MIN    3
#define WORD_MAX    24
#define SHORT_WORDS 4

struct compose_words {
    const corpus *c;
    int *begin; /* [n_concepts + 1] into keyword */
    const char **keyword;
    arena mem;
};

/* ---- what names forbid ---- */
bool compose_words_may_mirror(const corpus_concept *k) {
    static const char *const bound[] = {"left",       "right",   "leftwards",
                                        "rightwards", "hundred", "banknote",
                                        "calendar",   "dvd",     "e-mail"};
    if (k->group != CORPUS_SMILEYS && k->group != CORPUS_ANIMALS && k->group != CORPUS_FOOD &&
        k->group != CORPUS_OBJECTS)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(bound); i++)
        if (caption_has_word(k->name, bound[i])) return false;
    /* capitals and digits in a name are in its picture too: ZZZ, ATM */
    return !strpbrk(k->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
}

bool compose_words_may_recolor(const corpus_concept *k) {
    return k->group != CORPUS_PEOPLE && k->group != CORPUS_SYMBOLS && !k->scene_phrase[0] &&
           !caption_names_color(k->name);
}

bool compose_words_short(const char *name) {
    int n = 1;
    for (; *name; name++) n += *name == ' ' || *name == '-';
    return n <= SHORT_WORDS;
}

/* ---- keywords ---- */
/* Words, not smileys, codes or colours, that say something the name does not. */
static bool is_usable(const char *word, const char *name) {
    size_t n = strlen(word);
    return n >= WORD_MIN && n <= WORD_MAX && strspn(word, "abcdefghijklmnopqrstuvwxyz '-") == n &&
           word[0] >= 'a' && word[n - 1] >= 'a' && strcmp(word, "photo") &&
           !caption_has_word(name, word) && !caption_names_color(word);
}

status compose_words_create(const corpus *c, compose_words **out) {
    int most = 0, n = 0;
    compose_words *w = *out = mem_zalloc(sizeof *w);
    for (int i = 0; i < c->n_concepts; i++) most += c->concepts[i].n_keywords;
    if (w) {
        w->c = c;
        w->begin = arena_new(&w->mem, int, c->n_concepts + 1);
        w->keyword = arena_new(&w->mem, const char *, most);
    }
    if (!w || !w->begin || !w->keyword) {
        compose_words_destroy(w);
        *out = NULL;
        return fail(E_HOST_MEMORY, "compose: no memory for %d keywords", most);
    }
    for (int i = 0; i < c->n_concepts; i++) {
        const corpus_concept *k = &c->concepts[i];
        for (int j = 0; j < k->n_keywords; j++)
            if (is_usable(k->keywords[j], k->name)) w->keyword[n++] = k->keywords[j];
        w->begin[i + 1] = n;
    }
    return OK;
}

void compose_words_destroy(compose_words *w) {
    if (!w) return;
    arena_fini(&w->mem);
    mem_free(w);
}

/* ---- captions ---- */
enum { VISIT_DRAWS = 8, W_EMPTY = 0, W_STYLE, W_KEYWORD, W_WHICH, W_WHITE };

static double draw(const compose_wording *how, int decision) {
    return rng_uniform(how->lots, how->sample, how->visit * VISIT_DRAWS + (uint64_t)decision);
}

static const corpus_concept *concept_of(const corpus *c, int picture) {
    return &c->concepts[c->pictures[picture].concept];
}

static void add_style(const corpus *c, int picture, caption *out) {
    caption_add(out, c->styles[c->pictures[picture].style].phrase);
}

static void add_part(const corpus *c, const compose_part *part, caption *out) {
    const char *color = part->hue >= 0 ? caption_hues[part->hue].word : NULL;
    caption_add_thing(out, color, concept_of(c, part->picture)->name);
}

static void add_ground(const corpus *c, const compose_part *part, bool say_white, caption *out) {
    if (part->scene >= 0) {
        caption_add(out, " ");
        caption_add(out, concept_of(c, part->scene)->scene_phrase);
    } else if (part->ground > 0 || (part->ground == 0 && say_white)) {
        caption_add(out, " on ");
        caption_add_thing(out, caption_colors[part->ground].word, "background");
    }
}

/* The keyword stands behind, not in place of the name: many are no synonyms ("hygiene" of a
 * toothbrush), and the name must keep its picture. */
static void write_one(const compose_words *w, const compose_wording *how, const compose_info *info,
                      bool say_white, caption *out) {
    int concept = w->c->pictures[info->part[0].picture].concept;
    int first = w->begin[concept], n = w->begin[concept + 1] - first;
    add_part(w->c, &info->part[0], out);
    add_ground(w->c, &info->part[0], say_white, out);
    if (n == 0 || draw(how, W_KEYWORD) >= how->keyword) return;
    caption_add(out, ", ");
    caption_add(out, w->keyword[first + MIN((int)(draw(how, W_WHICH) * n), n - 1)]);
}

static const char *const panel[4] = {" [TOP-LEFT] ", " [TOP-RIGHT] ", " [BOTTOM-LEFT] ",
                                     " [BOTTOM-RIGHT] "};

static void write_style_grid(const corpus *c, const compose_info *info, bool say_white,
                             caption *out) {
    caption_add(out, "four pictures");
    add_ground(c, &info->part[0], say_white, out);
    for (int i = 0; i < 4; i++) {
        caption_add(out, panel[i]);
        add_style(c, info->part[i].picture, out);
        caption_add(out, " of ");
        add_part(c, &info->part[i], out);
    }
}

static void write_same_grid(const corpus *c, const compose_info *info, caption *out) {
    add_part(c, &info->part[0], out);
    caption_add(out, ", four pictures");
    for (int i = 0; i < 4; i++) {
        caption ground = {0};
        add_ground(c, &info->part[i], true, &ground);
        if (!ground.used) caption_add(&ground, " on a plain background");
        caption_add(out, panel[i]);
        caption_add(out, ground.text + 1); /* the marker ends with the space */
    }
}

void compose_words_write(const compose_words *w, const compose_wording *how,
                         const compose_info *info, caption *out) {
    const corpus *c = w->c;
    const bool say_white = draw(how, W_WHITE) < how->say_white;
    *out = (caption){0};
    if (draw(how, W_EMPTY) < how->no_caption) return;
    if (info->kind != COMPOSE_STYLE_GRID && draw(how, W_STYLE) >= how->no_style) {
        add_style(c, info->part[0].picture, out);
        caption_add(out, " of ");
    }
    switch (info->kind) {
    case COMPOSE_ONE:
        write_one(w, how, info, say_white, out);
        break;
    case COMPOSE_PAIR:
        add_part(c, &info->part[0], out);
        caption_add(out, " and ");
        add_part(c, &info->part[1], out);
        add_ground(c, &info->part[0], say_white, out);
        break;
    case COMPOSE_STYLE_GRID:
        write_style_grid(c, info, say_white, out);
        break;
    case COMPOSE_SAME_GRID:
        write_same_grid(c, info, out);
        break;
    case COMPOSE_KIND_COUNT:
        assert(0);
        break;
    }
}

void compose_plain_caption(const corpus *c, int picture, caption *out) {
    *out = (caption){0};
    add_style(c, picture, out);
    caption_add(out, " of ");
    caption_add_thing(out, NULL, concept_of(c, picture)->name);
}
