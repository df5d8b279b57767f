/* compose.c: what a sample shows: the draws, and the drawing in their order.
 *
 * A draw is a number in [0, 1) keyed by (sample, part, decision), never "the next number": changing
 * one share, or adding a decision, leaves all other draws of all samples as they were.
 * SPDX-License-Identifier: MIT */
#include "train/compose_internal.h"

#include "train/compose_words.h"

#include <assert.h>
#include <math.h>

/* ---- the documented recipes ---- */
#define ALL_GROUPS                                                                                 \
    .group_weight = {                                                                              \
        [CORPUS_SMILEYS] = 1, [CORPUS_PEOPLE] = 0.5,   [CORPUS_ANIMALS] = 1, [CORPUS_FOOD] = 1,    \
        [CORPUS_TRAVEL] = 1,  [CORPUS_ACTIVITIES] = 1, [CORPUS_OBJECTS] = 1, [CORPUS_SYMBOLS] = 0}
#define CAPTIONS .no_caption = 0.1, .no_style = 0.2, .keyword = 0.3, .say_white = 0.3

const compose_params compose_autoencoder = {
    ALL_GROUPS,        CAPTIONS,         .line_weight = 2, .grid = 0.08,      .grid_same = 0.5,
    .pair = 0.04,      .flat = 0.5,      .scene = 0.08,    .any_color = true, .aligned = 0.5,
    .scale_min = 0.85, .scale_max = 1.7, .shift_px = 24,   .mirror = 0.5};
/* As drawn, always: what a caption leaves open (which way a thing looks, where it stands) a denoiser
 * can only average, and things stayed blots until it was closed. */
const compose_params compose_stage_a = {
    ALL_GROUPS,  .line_weight = 1,  .flat = 0.3,      .aligned = 1,   .scale_min = 1,  .scale_max = 1,
    .no_caption = 0.1, .no_style = 0.1, .keyword = 0.1, .say_white = 0.3};
const compose_params compose_stage_b = {
    ALL_GROUPS,        CAPTIONS,       .line_weight = 1, .grid = 0.16,   .grid_same = 0.3,
    .pair = 0.1,       .flat = 0.3,    .scene = 0.3,     .hue = 0.4,     .aligned = 0.5,
    .scale_min = 0.75, .scale_max = 1, .shift_px = 16,   .inside = true, .mirror = 0.5};

#define SCENE_SCALE   1.28f /* of the scene: its rounded corners fall outside, at 1.25 not quite */
#define SUBJECT_SCALE 0.6f  /* of the thing before it, at the bottom */
#define SUBJECT_FLOOR 5.0f  /* px below the thing */
#define PAIR_W        58.0f /* px that each of two may take */
#define PAIR_H        104.0f
#define TOO_LIKE      0.4   /* share of a thing that may vanish in its ground */
#define HUE_CHROMA    0.2f  /* below: a thing has no colour to turn */
#define HUE_FOCUS     0.85f /* below: it has several, and the word would be wrong */
#define TRIES         16    /* for a second thing that fits the first */

struct composer {
    const corpus *c;
    compose_params p;
    rng_key lots;
    int n, *order;                    /* pictures that can be drawn, by style */
    double *until;                    /* [n + 1] sums of their weights */
    int begin[CORPUS_MAX_STYLES + 1]; /* of a style, in order */
    int *scene[CORPUS_MAX_STYLES], n_scenes[CORPUS_MAX_STYLES];
    int line; /* the style of black ink on nothing; -1 = there is none */
    compose_words *words;
    arena mem;
};

/* ---- draws ---- */
enum { /* of each part; the first TRIES are for pictures */
       D_PICTURE,
       D_KIND = TRIES,
       D_GRID,
       D_STYLE,
       D_GROUND,
       D_COLOR,
       D_RED,
       D_GREEN,
       D_BLUE,
       D_SCENE,
       D_HUE,
       D_HUE_WORD,
       D_ALIGNED,
       D_SCALE,
       D_X,
       D_Y,
       D_MIRROR,
       PART_DRAWS = 64
};
_Static_assert(D_MIRROR < PART_DRAWS, "draws of parts must not meet");

typedef struct sample_at {
    const composer *m;
    uint64_t sample;
    int part;
} sample_at;

static double draw(sample_at at, int decision) {
    return rng_uniform(at.m->lots, at.sample, (uint64_t)at.part * PART_DRAWS + (uint64_t)decision);
}

static int draw_index(sample_at at, int decision, int n) {
    return MIN((int)(draw(at, decision) * n), n - 1);
}

static float draw_between(sample_at at, int decision, float low, float high) {
    return low + (high - low) * (float)draw(at, decision);
}

/* A picture by weight, of one style or (-1) of any. */
static int draw_of_style(sample_at at, int try, int style) {
    const composer *m = at.m;
    int low = style < 0 ? 0 : m->begin[style], high = style < 0 ? m->n : m->begin[style + 1];
    assert(low < high && try < TRIES);
    double wanted = m->until[low] + draw(at, D_PICTURE + try) * (m->until[high] - m->until[low]);
    high--;
    while (low < high) { /* the first whose sum exceeds */
        int middle = low + (high - low) / 2;
        if (m->until[middle + 1] > wanted)
            high = middle;
        else
            low = middle + 1;
    }
    return m->order[low];
}

static const corpus_concept *concept_of(const composer *m, int picture) {
    return &m->c->concepts[m->c->pictures[picture].concept];
}
static int style_of(const composer *m, int picture) { return m->c->pictures[picture].style; }

/* ---- what is shown ---- */
static bool is_scene(const composer *m, int picture) {
    return concept_of(m, picture)->scene_phrase[0] != 0;
}

static bool choose_pair(sample_at at, compose_info *info) {
    const composer *m = at.m;
    int first = info->part[0].picture;
    if (is_scene(m, first)) return false;
    at.part = 1;
    for (int try = 0; try < TRIES; try++) {
        int p = draw_of_style(at, try, style_of(m, first));
        if (concept_of(m, p) == concept_of(m, first) || is_scene(m, p)) continue;
        info->part[1].picture = p;
        return true;
    }
    return false;
}

/* Thing 1 in styles A and B, thing 2 in A and B. Long names would not leave room for four captions.
 */
static bool choose_style_grid(sample_at at, compose_info *info) {
    const composer *m = at.m;
    const corpus *c = m->c;
    int first = info->part[0].picture, from = style_of(m, first), n = 0, to[CORPUS_MAX_STYLES];
    int thing = c->pictures[first].concept;
    for (int s = 0; s < c->n_styles; s++)
        if (s != from && corpus_trained(c, thing, s) >= 0) to[n++] = s;
    if (n == 0 || !compose_words_short(concept_of(m, first)->name)) return false;
    int other = to[draw_index(at, D_STYLE, n)];
    at.part = 1;
    for (int try = 0; try < TRIES; try++) {
        int p = draw_of_style(at, try, from), second = c->pictures[p].concept;
        if (second == thing || corpus_trained(c, second, other) < 0) continue;
        if (!compose_words_short(c->concepts[second].name)) continue;
        info->part[1].picture = corpus_trained(c, thing, other);
        info->part[2].picture = p;
        info->part[3].picture = corpus_trained(c, second, other);
        return true;
    }
    return false;
}

static void choose_things(sample_at at, compose_info *info) {
    const compose_params *p = &at.m->p;
    double kind = draw(at, D_KIND);
    bool same = draw(at, D_GRID) < p->grid_same;
    int first = draw_of_style(at, 0, -1);
    *info = (compose_info){.kind = COMPOSE_ONE, .n_parts = 1};
    for (int i = 0; i < 4; i++) info->part[i] = (compose_part){first, -1, 0, -1};
    if (kind < p->grid && same)
        info->kind = COMPOSE_SAME_GRID, info->n_parts = 4;
    else if (kind < p->grid && choose_style_grid(at, info))
        info->kind = COMPOSE_STYLE_GRID, info->n_parts = 4;
    else if (kind >= p->grid && kind < p->grid + p->pair && choose_pair(at, info))
        info->kind = COMPOSE_PAIR, info->n_parts = 2;
}

/* ---- the picture at hand ---- */
static status take_picture(const composer *m, int picture, compose_work *w) {
    assert(m->c->pictures[picture].split == SPLIT_TRAIN); /* held out is held out */
    return corpus_decode(m->c, picture, w->rgba);
}

/* Turns the picture at hand to a drawn colour; the index of its word, or -1 where none fits. */
static int turn_hue(sample_at at, int picture, compose_work *w) {
    draw_hue now;
    if (draw(at, D_HUE) >= at.m->p.hue || style_of(at.m, picture) == at.m->line ||
        !compose_words_may_recolor(concept_of(at.m, picture)))
        return -1;
    draw_measure_hue(w, &now);
    if (now.chroma < HUE_CHROMA || now.focus < HUE_FOCUS) return -1;
    const int first = draw_index(at, D_HUE_WORD, CAPTION_HUES);
    for (int k = 0; k < CAPTION_HUES; k++) {
        const int i = (first + k) % CAPTION_HUES;
        const caption_hue *to = &caption_hues[i];
        if (now.value < to->value_min) continue;
        draw_turn_hue(w, to->degrees - now.degrees, to->saturation);
        return i;
    }
    return -1;
}

/* ---- grounds ---- */
/* A named colour in which the picture at hand stays visible; white if there is none. */
static int choose_color(sample_at at, bool light, int hue, const compose_work *w) {
    int first = draw_index(at, D_COLOR, CAPTION_COLORS - 1);
    for (int i = 0; i < CAPTION_COLORS - 1; i++) {
        int color = 1 + (first + 5 * i) % (CAPTION_COLORS - 1); /* 5 and 12 share no factor */
        const caption_color *k = &caption_colors[color];
        if (light && !k->light) continue;
        if (hue >= 0 && !strcmp(k->word, caption_hues[hue].word)) continue;
        if (draw_likeness(w, k->rgb) < TOO_LIKE) return color;
    }
    return 0;
}

/* Fills in scene and ground of a part, with the picture at hand; rgb is the ground's colour. */
static void choose_ground(sample_at at, bool light, const compose_work *w, compose_part *part,
                          uint8_t rgb[3]) {
    const compose_params *p = &at.m->p;
    int style = style_of(at.m, part->picture), n = at.m->n_scenes[style];
    double u = draw(at, D_GROUND);
    part->scene = -1, part->ground = 0;
    if (u < p->scene && n > 0 && !is_scene(at.m, part->picture)) {
        part->scene = at.m->scene[style][draw_index(at, D_SCENE, n)];
    } else if (u < p->scene + p->flat) {
        part->ground = p->any_color ? COMPOSE_UNNAMED : choose_color(at, light, part->hue, w);
    }
    for (int c = 0; c < 3; c++) {
        float any = draw_between(at, D_RED + c, light ? 160 : 0, 256);
        rgb[c] =
            part->ground == COMPOSE_UNNAMED ? (uint8_t)any : caption_colors[part->ground].rgb[c];
    }
}

/* ---- places ---- */
/* Where the centre c may lie so that [low, high] (from the centre, scaled) stays on the canvas, at
 * most `shift` from the middle. */
static float place_along(float u, float shift, bool inside, float low, float high) {
    float from = SIDE / 2 - shift, to = SIDE / 2 + shift;
    if (inside) {
        float first = -low, last = SIDE - high;
        if (first > last) first = last = (first + last) / 2;
        from = MIN(MAX(from, first), last), to = MAX(MIN(to, last), first);
    }
    return from + (to - from) * u;
}

static draw_rect seen_box(const compose_work *w, bool mirror) {
    draw_rect b = w->box;
    return mirror ? (draw_rect){SIDE - b.x1, b.y0, SIDE - b.x0, b.y1} : b;
}

static bool draw_mirrored(sample_at at, int picture) {
    return draw(at, D_MIRROR) < at.m->p.mirror &&
           compose_words_may_mirror(concept_of(at.m, picture));
}

/* On a canvas of its own. */
static draw_place place_free(sample_at at, int picture, const compose_work *w) {
    const compose_params *p = &at.m->p;
    draw_place to = {1, SIDE / 2, SIDE / 2, draw_mirrored(at, picture)};
    if (draw(at, D_ALIGNED) < p->aligned) return to;
    draw_rect b = seen_box(w, to.mirror);
    to.scale = draw_between(at, D_SCALE, (float)p->scale_min, (float)p->scale_max);
    to.x = place_along((float)draw(at, D_X), (float)p->shift_px, p->inside,
                       to.scale * (float)(b.x0 - SIDE / 2), to.scale * (float)(b.x1 - SIDE / 2));
    to.y = place_along((float)draw(at, D_Y), (float)p->shift_px, p->inside,
                       to.scale * (float)(b.y0 - SIDE / 2), to.scale * (float)(b.y1 - SIDE / 2));
    return to;
}

static draw_place place_in_scene(sample_at at, int picture, const compose_work *w) {
    draw_place to = {SUBJECT_SCALE, 0, 0, draw_mirrored(at, picture)};
    draw_rect b = seen_box(w, to.mirror);
    float middle = (float)(b.x0 + b.x1) / 2 - SIDE / 2;
    to.x = SIDE / 2 - to.scale * middle + draw_between(at, D_X, -10, 10);
    to.y = SIDE - SUBJECT_FLOOR - to.scale * (float)(b.y1 - SIDE / 2);
    return to;
}

static draw_place place_beside(sample_at at, int picture, const compose_work *w) {
    draw_place to = {1, 0, 0, draw_mirrored(at, picture)};
    draw_rect b = seen_box(w, to.mirror);
    to.scale = MAX(MIN(1, MIN(PAIR_W / (float)(b.x1 - b.x0), PAIR_H / (float)(b.y1 - b.y0))),
                   DRAW_SCALE_MIN);
    float x = (float)(b.x0 + b.x1) / 2 - SIDE / 2, y = (float)(b.y0 + b.y1) / 2 - SIDE / 2;
    to.x = SIDE * (at.part == 0 ? 0.25f : 0.75f) - to.scale * x;
    to.y = SIDE / 2 - to.scale * y;
    return to;
}

/* ---- drawing ---- */
static const draw_rect whole = {0, 0, SIDE, SIDE};

static draw_rect cell_rect(int i) {
    const int half = SIDE / 2;
    return (draw_rect){i % 2 * half, i / 2 * half, i % 2 * half + half, i / 2 * half + half};
}

/* From a canvas of its own into a cell. */
static draw_place shrink(draw_place p, draw_rect r) {
    const float k = (float)(r.x1 - r.x0) / SIDE;
    return (draw_place){p.scale * k, (float)r.x0 + p.x * k, (float)r.y0 + p.y * k, p.mirror};
}

/* One thing on its own ground, in the whole canvas or a cell. taken: grounds of earlier cells. */
static status show_one(sample_at at, compose_work *w, draw_rect r, const compose_info *taken,
                       compose_part *part) {
    status st = OK;
    uint8_t rgb[3];
    sample_at first = at;
    first.part = 0; /* four views of one thing share its colour */
    TRY(take_picture(at.m, part->picture, w));
    part->hue = turn_hue(first, part->picture, w);
    choose_ground(at, style_of(at.m, part->picture) == at.m->line, w, part, rgb);
    for (int i = 0; taken && i < at.part; i++)
        if (taken->part[i].scene >= 0 && taken->part[i].scene == part->scene) {
            part->scene = -1; /* the same scene twice says nothing: white instead */
            memcpy(rgb, caption_colors[0].rgb, 3);
        }
    draw_prepare(w);
    draw_place to =
        part->scene >= 0 ? place_in_scene(at, part->picture, w) : place_free(at, part->picture, w);
    draw_fill(w, r, rgb);
    if (part->scene >= 0) {
        TRY(take_picture(at.m, part->scene, w));
        draw_prepare(w);
        draw_picture(w, r, shrink((draw_place){SCENE_SCALE, SIDE / 2, SIDE / 2, false}, r));
        TRY(take_picture(at.m, part->picture, w));
        if (part->hue >= 0) turn_hue(first, part->picture, w);
        draw_prepare(w);
    }
    draw_picture(w, r, shrink(to, r));
out:
    return st;
}

/* Several pictures on one flat ground: a pair, or the cells of a style grid. */
static status show_several(sample_at at, compose_work *w, compose_info *info) {
    status st = OK;
    bool light = false, pair = info->kind == COMPOSE_PAIR;
    uint8_t rgb[3];
    for (int i = 0; i < info->n_parts; i++)
        light |= style_of(at.m, info->part[i].picture) == at.m->line;
    for (int i = 0; i < info->n_parts; i++) {
        compose_part *part = &info->part[i];
        at.part = i;
        TRY(take_picture(at.m, part->picture, w));
        if (pair) part->hue = turn_hue(at, part->picture, w);
        if (i == 0) {
            choose_ground(at, light, w, part, rgb);
            part->scene = -1; /* a scene would be too busy: white, as choose_ground left it */
            draw_fill(w, whole, rgb);
        }
        part->ground = info->part[0].ground;
        draw_prepare(w);
        if (pair)
            draw_picture(w, whole, place_beside(at, part->picture, w));
        else
            draw_picture(w, cell_rect(i),
                         shrink((draw_place){1, SIDE / 2, SIDE / 2, false}, cell_rect(i)));
    }
out:
    return st;
}

status compose_sample(const composer *m, uint64_t sample, compose_work *w, uint8_t *rgb,
                      compose_info *info) {
    status st = OK;
    sample_at at = {m, sample, 0};
    choose_things(at, info);
    if (info->kind == COMPOSE_ONE) {
        TRY(show_one(at, w, whole, NULL, &info->part[0]));
    } else if (info->kind == COMPOSE_SAME_GRID) {
        for (at.part = 0; at.part < 4; at.part++)
            TRY(show_one(at, w, cell_rect(at.part), info, &info->part[at.part]));
    } else {
        TRY(show_several(at, w, info));
    }
    draw_finish(w, rgb);
out:
    return st;
}

status compose_work_create(compose_work **out) {
    *out = mem_zalloc(sizeof **out);
    return *out ? OK : fail(E_HOST_MEMORY, "no memory for %zu bytes to compose in", sizeof **out);
}

void compose_work_destroy(compose_work *w) { mem_free(w); }

void compose_caption(const composer *m, uint64_t sample, uint64_t visit, const compose_info *info,
                     caption *out) {
    const compose_params *p = &m->p;
    compose_wording how = {{{p->seed[0], p->seed[1]}, rng_stream("caption")},
                           sample,
                           visit,
                           p->no_caption,
                           p->no_style,
                           p->keyword,
                           p->say_white};
    compose_words_write(m->words, &how, info, out);
}

/* ---- creating ---- */
static status check_params(const compose_params *p) {
    const double shares[] = {
        p->grid,    p->grid_same, p->pair,           p->flat,           p->scene,
        p->hue,     p->aligned,   p->mirror,         p->no_caption,     p->no_style,
        p->keyword, p->say_white, p->grid + p->pair, p->flat + p->scene};
    for (size_t i = 0; i < ARRAY_LEN(shares); i++)
        if (!(shares[i] >= 0 && shares[i] <= 1 + 1e-9))
            return fail(E_USAGE,
                        "compose: a share is %g; shares and their sums (grid + pair, "
                        "flat + scene) lie between 0 and 1",
                        shares[i]);
    for (int g = 0; g < CORPUS_GROUP_COUNT; g++)
        if (!(p->group_weight[g] >= 0 && p->group_weight[g] <= 1e6))
            return fail(E_USAGE, "compose: a group's weight is %g, not in 0..1e6",
                        p->group_weight[g]);
    if (!(p->line_weight >= 0 && p->line_weight <= 1e6))
        return fail(E_USAGE, "compose: the weight of line is %g, not in 0..1e6", p->line_weight);
    /* a cell is half as large */
    if (!(p->scale_min >= 2 * DRAW_SCALE_MIN && p->scale_min <= p->scale_max &&
          p->scale_max <= DRAW_SCALE_MAX && p->shift_px >= 0 && p->shift_px <= SIDE))
        return fail(E_USAGE,
                    "compose: scale %g..%g, shift %g px; scales lie in %g..%g, a shift in 0..%d",
                    p->scale_min, p->scale_max, p->shift_px, 2.0 * DRAW_SCALE_MIN,
                    (double)DRAW_SCALE_MAX, SIDE);
    return OK;
}

static double weight_of(const composer *m, const corpus_picture *k) {
    if (k->split != SPLIT_TRAIN) return 0;
    return m->p.group_weight[m->c->concepts[k->concept].group] *
           (k->style == m->line ? m->p.line_weight : 1);
}

static status weigh_pictures(composer *m) {
    const corpus *c = m->c;
    m->order = arena_new(&m->mem, int, c->n_pictures);
    m->until = arena_new(&m->mem, double, c->n_pictures + 1);
    if (!m->order || !m->until)
        return fail(E_HOST_MEMORY, "compose: no memory for %d pictures", c->n_pictures);
    for (int s = 0; s < c->n_styles; s++) {
        for (int i = 0; i < c->n_pictures; i++) {
            double weight = weight_of(m, &c->pictures[i]);
            if (c->pictures[i].style != s || weight <= 0) continue;
            m->order[m->n] = i;
            m->until[m->n + 1] = m->until[m->n] + weight;
            m->n++;
        }
        m->begin[s + 1] = m->n;
    }
    return m->n ? OK : fail(E_USAGE, "compose: all weights are 0: there is nothing to draw");
}

/* A scene serves where its picture fills the canvas; in some styles it is a disc or has no sky. */
static status find_scenes(composer *m) {
    status st = OK;
    const corpus *c = m->c;
    compose_work *w = NULL;
    TRY(compose_work_create(&w));
    for (int s = 0; s < c->n_styles; s++) {
        m->scene[s] = arena_new(&m->mem, int, c->n_concepts);
        if (!m->scene[s]) {
            st = fail(E_HOST_MEMORY, "compose: no memory for scenes");
            goto out;
        }
        for (int i = 0; i < c->n_concepts; i++) {
            int p = corpus_trained(c, i, s);
            if (p < 0 || !c->concepts[i].scene_phrase[0]) continue;
            TRY(corpus_decode(c, p, w->rgba));
            if (draw_least_alpha(w, SCENE_SCALE) >= 250) m->scene[s][m->n_scenes[s]++] = p;
        }
    }
out:
    compose_work_destroy(w);
    return st;
}

status composer_create(const corpus *c, const compose_params *p, composer **out) {
    status st = OK;
    composer *m = *out = NULL;
    TRY(check_params(p));
    m = mem_zalloc(sizeof *m);
    if (!m) {
        st = fail(E_HOST_MEMORY, "compose: no memory");
        goto out;
    }
    m->c = c, m->p = *p, m->line = corpus_find_style(c, "line");
    m->lots = (rng_key){{p->seed[0], p->seed[1]}, rng_stream("compose")};
    TRY(weigh_pictures(m));
    TRY(find_scenes(m));
    TRY(compose_words_create(c, &m->words));
    *out = m;
    m = NULL;
out:
    composer_destroy(m);
    return st;
}

void composer_destroy(composer *m) {
    if (!m) return;
    compose_words_destroy(m->words);
    arena_fini(&m->mem);
    mem_free(m);
}

int composer_pictures(const composer *m) { return m->n; }
