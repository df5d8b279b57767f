/* grids.c: grids drawn from the corpus: which pictures stand in the cells, what was done to them, and what is said of them.
 * The corpus shows a thing in several styles and a grid can repeat any change exactly, so every answer is known.
 * Draws are keyed by (seed, sample, decision), as compose.c's are.
 * SPDX-License-Identifier: MIT */
#include "train/grids.h"
#include "train/compose_internal.h"
#include "train/compose_words.h"
#include <math.h>

#define FLAT_GROUND 0.5  /* share of views on a named colour */
#define CHROMA      0.15 /* below: nothing that a turned hue would change */
#define TRIES       32   /* for a second thing */
enum { EDIT, EFFECT, RECON3, RECON1, COMPOSE };

struct grid_source {
    grid_source_params p;
    corpus *c;
    rng_key lots;
    int *thing, n_things; /* concepts with pictures to train on */
    double until[GRID_KINDS];
    arena mem;
};

/* ---- draws ---- */
enum { D_LAYOUT, D_STYLE_A, D_STYLE_B, D_KIND, D_AMOUNT, D_COLOR, D_MIRROR, D_VIEWS, D_ORDER, D_CELL = D_ORDER + 4, D_THING = D_CELL + 8 * GRID_MAX_CELLS };
typedef struct lots { const grid_source *s; uint64_t sample; } lots;

static double draw(lots l, int decision) { return rng_uniform(l.s->lots, l.sample, (uint64_t)decision); }
static int draw_index(lots l, int decision, int n) { return MIN((int)(draw(l, decision) * n), n - 1); }

/* The styles that a thing is trained in. */
static int styles_of(const corpus *c, int thing, int out[CORPUS_MAX_STYLES]) {
    int n = 0;
    for (int s = 0; s < c->n_styles; s++)
        if (corpus_trained(c, thing, s) >= 0) out[n++] = s;
    return n;
}

static int draw_thing(lots l, int try) { return l.s->thing[draw_index(l, D_THING + try, l.s->n_things)]; }

/* A thing other than `not` that is trained in both styles (b may be a); -1 = none found. */
static int draw_thing_in(lots l, int from, int not_this, int a, int b) {
    for (int try = 0; try < TRIES; try++) {
        int t = draw_thing(l, from + try);
        if (t != not_this && corpus_trained(l.s->c, t, a) >= 0 && corpus_trained(l.s->c, t, b) >= 0) return t;
    }
    return -1;
}

/* ---- one cell ---- */
typedef enum effect { NO_EFFECT, TURNED_HUE, SHADOW, OUTLINE, ROTATED, GROUND, EFFECT_COUNT } effect;
typedef struct change { effect kind; int amount; } change; /* degrees, px, index of a colour, quarter turns */
typedef struct cell { int picture; change change; int ground; float scale, x, y; bool mirror; } cell;

static const cell plain = {.scale = 1, .x = SIDE / 2, .y = SIDE / 2};

/* What lies under the picture at hand shows through: rgba = rgba over (colour, alpha). */
static void put_under(uint8_t *rgba, const uint8_t colour[3], float alpha) {
    float own = rgba[3] / 255.0f, under = alpha * (1 - own), sum = own + under;
    for (int c = 0; c < 3 && sum > 0; c++) rgba[c] = (uint8_t)((own * rgba[c] + under * colour[c]) / sum + 0.5f);
    rgba[3] = (uint8_t)(255 * sum + 0.5f);
}

static int alpha_at(const uint8_t *rgba, int x, int y) { return x < 0 || y < 0 || x >= SIDE || y >= SIDE ? 0 : rgba[(y * SIDE + x) * 4 + 3]; }

/* was: a copy of rgba */
static void add_under(uint8_t *rgba, const uint8_t *was, change c) {
    static const uint8_t dark[3] = {40, 40, 48};
    const uint8_t *colour = c.kind == SHADOW ? dark : caption_colors[c.amount].rgb;
    for (int i = 0; i < SIDE * SIDE; i++) {
        int x = i % SIDE, y = i / SIDE, most = 0, radius = c.kind == SHADOW ? 0 : 4;
        if (c.kind == SHADOW) most = alpha_at(was, x - c.amount, y - c.amount) / 2;
        for (int v = -radius; v <= radius && radius; v++)
            for (int u = -radius; u <= radius; u++)
                if (u * u + v * v <= radius * radius) most = MAX(most, alpha_at(was, x + u, y + v));
        put_under(rgba + i * 4, colour, (float)most / 255);
    }
}

static void rotate(uint8_t *rgba, const uint8_t *was, int quarters) {
    for (int i = 0; i < SIDE * SIDE; i++) {
        int x = i % SIDE, y = i / SIDE;
        for (int q = 0; q < quarters; q++) {
            int t = x;
            x = y, y = SIDE - 1 - t;
        }
        memcpy(rgba + i * 4, was + (y * SIDE + x) * 4, 4);
    }
}

static status apply(compose_work *w, change c) {
    uint8_t *was = mem_alloc(CORPUS_RGBA_BYTES);
    if (!was) return fail(E_HOST_MEMORY, "no host memory for a picture");
    memcpy(was, w->rgba, CORPUS_RGBA_BYTES);
    if (c.kind == TURNED_HUE) draw_turn_hue(w, (float)c.amount, 1);
    if (c.kind == SHADOW || c.kind == OUTLINE) add_under(w->rgba, was, c);
    if (c.kind == ROTATED) rotate(w->rgba, was, c.amount);
    mem_free(was);
    return OK;
}

static status show(const grid_source *s, compose_work *w, const cell *c, uint8_t *rgb) {
    status st = OK;
    static const draw_rect whole = {0, 0, SIDE, SIDE};
    TRY(corpus_decode(s->c, c->picture, w->rgba));
    TRY(apply(w, c->change));
    draw_prepare(w);
    draw_fill(w, whole, caption_colors[c->ground].rgb);
    draw_picture(w, whole, (draw_place){c->scale, c->x, c->y, c->mirror});
    draw_finish(w, rgb);
out:
    return st;
}

static void say(const grid_source *s, const cell *c, caption *out) {
    compose_plain_caption(s->c, c->picture, out);
    if (c->ground == 0) return;
    caption_add(out, " on ");
    caption_add_thing(out, caption_colors[c->ground].word, "background");
}

/* ---- layouts ---- */
static bool choose_edit(lots l, cell k[4]) {
    int style[CORPUS_MAX_STYLES], a = draw_thing(l, 0), n = styles_of(l.s->c, a, style);
    if (n < 2) return false;
    int i = draw_index(l, D_STYLE_A, n), j = draw_index(l, D_STYLE_B, n - 1), from = style[i], to = style[j + (j >= i)];
    int b = draw_thing_in(l, 1, a, from, to);
    if (b < 0) return false;
    const int things[2] = {a, b}, styles[2] = {from, to};
    for (int c = 0; c < 4; c++) k[c] = plain, k[c].picture = corpus_trained(l.s->c, things[c / 2], styles[c % 2]);
    return true;
}

static change draw_change(lots l, bool ink) {
    change c = {(effect)(1 + draw_index(l, D_KIND, EFFECT_COUNT - 1)), 0};
    if (ink && c.kind == TURNED_HUE) c.kind = GROUND; /* ink has no hue */
    switch (c.kind) {
    case TURNED_HUE: c.amount = 60 * (1 + draw_index(l, D_AMOUNT, 5)); break;
    case SHADOW: c.amount = 5 + draw_index(l, D_AMOUNT, 6); break;
    case ROTATED: c.amount = 1 + draw_index(l, D_AMOUNT, 3); break;
    case OUTLINE:
    case GROUND: c.amount = 1 + draw_index(l, D_COLOR, CAPTION_COLORS - 1); break;
    case NO_EFFECT:
    case EFFECT_COUNT: break;
    }
    if (ink && c.kind == GROUND && !caption_colors[c.amount].light) c.kind = ROTATED, c.amount = 1;
    return c;
}

static bool choose_effect(lots l, cell k[4]) {
    int style[CORPUS_MAX_STYLES], a = draw_thing(l, 0), n = styles_of(l.s->c, a, style);
    int from = style[draw_index(l, D_STYLE_A, n)], b = draw_thing_in(l, 1, a, from, from);
    if (b < 0) return false;
    change made = draw_change(l, from == corpus_find_style(l.s->c, "line"));
    for (int c = 0; c < 4; c++) {
        k[c] = plain;
        k[c].picture = corpus_trained(l.s->c, c / 2 ? b : a, from);
        if (made.kind == SHADOW || made.kind == OUTLINE) k[c].scale = 0.85f; /* room for what is added */
        if (c % 2) k[c].change = made;
        if (c % 2 && made.kind == GROUND) k[c].ground = made.amount;
    }
    return true;
}

/* A hue can only be turned where there is one. */
static status check_hue(const grid_source *s, compose_work *w, cell k[4]) {
    status st = OK;
    if (k[1].change.kind != TURNED_HUE) return OK;
    for (int c = 0; c < 4; c += 2) {
        draw_hue now;
        TRY(corpus_decode(s->c, k[c].picture, w->rgba));
        draw_measure_hue(w, &now);
        if ((double)now.chroma < CHROMA) k[1].change = k[3].change = (change){ROTATED, 1};
    }
out:
    return st;
}

/* Four pictures of a thing: in four styles, or in one on grounds and at places of their own. */
static bool choose_views(lots l, cell k[4]) {
    int style[CORPUS_MAX_STYLES], a = draw_thing(l, 0), n = styles_of(l.s->c, a, style);
    bool views = n < 4 || draw(l, D_VIEWS) < 0.5, light;
    for (int c = 0; c < 4; c++) { /* the first c of a shuffled list */
        int other = c + draw_index(l, D_ORDER + c, n - c > 0 ? n - c : 1), held = style[MIN(c, n - 1)];
        if (c < n) style[c] = style[other], style[other] = held;
    }
    for (int c = 0; c < 4; c++) {
        int own = D_CELL + 8 * c, s = style[views ? 0 : c];
        light = s == corpus_find_style(l.s->c, "line");
        k[c] = plain;
        k[c].picture = corpus_trained(l.s->c, a, s);
        k[c].mirror = compose_words_may_mirror(&l.s->c->concepts[a]) && draw(l, own + 1) < 0.5;
        if (!views) continue;
        int ground = 1 + draw_index(l, own, CAPTION_COLORS - 1);
        if (draw(l, own + 2) < FLAT_GROUND) k[c].ground = light && !caption_colors[ground].light ? 0 : ground;
        k[c].scale = 0.6f + 0.4f * (float)draw(l, own + 3);
        k[c].x += 20 * (float)(draw(l, own + 4) - 0.5), k[c].y += 20 * (float)(draw(l, own + 5) - 0.5);
    }
    return true;
}

/* ---- two things in one picture ---- */
static status show_pair(const grid_source *s, compose_work *w, const cell *left, const cell *right, uint8_t *rgb) {
    status st = OK;
    static const draw_rect whole = {0, 0, SIDE, SIDE};
    draw_fill(w, whole, caption_colors[0].rgb);
    for (int i = 0; i < 2; i++) {
        TRY(corpus_decode(s->c, (i ? right : left)->picture, w->rgba));
        draw_prepare(w);
        draw_picture(w, whole, (draw_place){0.5f, SIDE * (i ? 0.75f : 0.25f), SIDE / 2, false});
    }
    draw_finish(w, rgb);
out:
    return st;
}

static status draw_compose(lots l, compose_work *w, uint8_t *rgb, grid_sample *out) {
    status st = OK;
    const grid_source *s = l.s;
    int style[CORPUS_MAX_STYLES], a = draw_thing(l, 0), n = styles_of(s->c, a, style), in = style[draw_index(l, D_STYLE_A, n)];
    int b = draw_thing_in(l, 1, a, in, in);
    cell k[2] = {plain, plain};
    k[0].picture = corpus_trained(s->c, a, in), k[1].picture = corpus_trained(s->c, b < 0 ? a : b, in);
    for (int i = 0; i < 2; i++) {
        TRY(show(s, w, &k[i], rgb + COMPOSE_RGB_BYTES * (size_t)i));
        say(s, &k[i], &out->text[i]);
        TRY(show_pair(s, w, &k[i], &k[1 - i], rgb + COMPOSE_RGB_BYTES * (size_t)(2 + i)));
        say(s, &k[i], &out->text[2 + i]);
        caption_add(&out->text[2 + i], " and ");
        caption_add_thing(&out->text[2 + i], NULL, s->c->concepts[i ? a : b < 0 ? a : b].name);
    }
out:
    return st;
}

/* ---- the stream ---- */
status grid_source_draw(const grid_source *s, uint64_t sample, compose_work *w, uint8_t *rgb, grid_sample *out) {
    status st = OK;
    lots l = {s, sample};
    double u = draw(l, D_LAYOUT) * s->until[GRID_KINDS - 1];
    int kind = 0;
    cell k[4];
    while (kind < GRID_KINDS - 1 && s->until[kind] <= u) kind++;
    *out = (grid_sample){.layout = grid_layout_at(kind)};
    if (kind == COMPOSE) return draw_compose(l, w, rgb, out);
    bool good = kind == EDIT ? choose_edit(l, k) : kind == EFFECT ? choose_effect(l, k) : choose_views(l, k);
    if (kind == EFFECT && good) TRY(check_hue(s, w, k));
    if (!good) choose_views(l, k), out->layout = grid_layout_find("recon3"); /* a thing with no partner */
    for (int c = 0; c < 4; c++) {
        TRY(show(s, w, &k[c], rgb + COMPOSE_RGB_BYTES * (size_t)c));
        say(s, &k[c], &out->text[c]);
    }
out:
    return st;
}

status grid_source_open(const grid_source_params *p, grid_source **out) {
    status st = OK;
    double sum = 0;
    grid_source *s = *out = mem_zalloc(sizeof *s);
    if (!s) return fail(E_HOST_MEMORY, "no host memory for the corpus");
    s->p = *p;
    s->lots = (rng_key){{p->seed, 0}, rng_stream("grids")};
    for (int i = 0; i < GRID_KINDS; i++) {
        if (!(p->weight[i] >= 0 && p->weight[i] <= 1e6) || (p->weight[i] > 0 && !grid_layout_at(i))) TRY(fail(E_USAGE, "the weight of layout %d is %g", i, p->weight[i]));
        s->until[i] = sum += p->weight[i];
    }
    TRY(corpus_open(p->folder, &s->c));
    if (!(s->thing = arena_new(&s->mem, int, s->c->n_concepts))) TRY(fail(E_HOST_MEMORY, "no host memory for the corpus"));
    for (int i = 0; i < s->c->n_concepts; i++) {
        int style[CORPUS_MAX_STYLES];
        if (s->c->concepts[i].group != CORPUS_SYMBOLS && styles_of(s->c, i, style) > 0) s->thing[s->n_things++] = i;
    }
    if (!s->n_things || sum <= 0) TRY(fail(E_USAGE, "%s: nothing to draw grids from", p->folder));
out:
    if (st != OK) grid_source_close(s), *out = NULL;
    return st;
}

void grid_source_close(grid_source *s) {
    if (!s) return;
    corpus_close(s->c);
    arena_fini(&s->mem);
    mem_free(s);
}

const corpus *grid_source_corpus(const grid_source *s) { return s->c; }
