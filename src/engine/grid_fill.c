/* grid_fill.c: the missing cells of a grid, all in one sampling run. A step's batch holds the missing cells up to three times:
 * with nothing, with the given cells, with those and the words; guidance pushes along both differences (Brooks et al. 2023).
 * Where given cells see only each other they stand in it once, and where they carry no noise not at all: their keys are
 * computed before the first step.
 * SPDX-License-Identifier: MIT */
#include "engine/grid.h"
#include <math.h>
#include <stdio.h>

enum { PASS_NOTHING, PASS_GIVEN, PASS_WORDS, PASSES };
#define MAX_ROWS (PASSES * GRID_MAX_CELLS)

typedef struct row { int cell; int pass; bool given; } row; /* -1: a given cell that serves all */

typedef struct fill {
    grid_model *m; const grid_fill_params *p; float *z;
    int cells, made[GRID_MAX_CELLS], n_made, given[GRID_MAX_CELLS], n_given, c;
    bool pass[PASSES], kept;               /* passes that run; are the given cells' keys computed once? */
    row row[MAX_ROWS];
    grid_rows rows; bool sees[MAX_ROWS * (MAX_ROWS + GRID_MAX_CELLS)];
    size_t one; int tokens; float *text[1 + GRID_MAX_CELLS]; /* features of "negative", then of each cell: [tokens, D] */
    float *x, *in, *y, *seen, *context, *t, *eps, *kept_x[SAMPLER_MAX_KEPT], *x0, *noise;
    const sampler_info *sampler; sampler_params sp; sampler_plan plan;
    noise_gen gen[GRID_MAX_CELLS];
} fill;

/* ---- what is wished ---- */
static status check(fill *f) {
    const grid_fill_params *p = f->p;
    const unet_config *u = &f->m->im->ck->unet;
    int multiple = p->geometry == GRID_CANVAS ? 1 << (u->levels - 1) : 1;
    if (p->rows < 1 || p->cols < 1 || p->rows * p->cols > GRID_MAX_CELLS || p->rows > 2)
        return fail(E_USAGE, "a grid of %dx%d cells: expected 1x2 to 2x3", p->rows, p->cols);
    if (p->h < 1 || p->w < 1 || p->h % multiple || p->w % multiple)
        return fail(E_USAGE, "cells of %dx%d: on a canvas both sides must be multiples of %d latent cells", p->w, p->h, multiple);
    if (p->steps < 0 || p->steps > 1000) return fail(E_USAGE, "steps %d: expected 1 to 1000", p->steps);
    if (!(p->guidance >= 0 && p->guidance <= 100) || !(p->ref_guidance >= 0 && p->ref_guidance <= 100))
        return fail(E_USAGE, "guidance %g, of the given cells %g: expected 0 to 100", (double)p->guidance, (double)p->ref_guidance);
    f->c = f->m->im->ck->vae.latent_channels;
    f->one = (size_t)p->h * (size_t)p->w * (size_t)f->c;
    f->cells = p->rows * p->cols;
    for (int i = 0; i < f->cells; i++) {
        if (p->made[i]) f->made[f->n_made++] = i;
        else f->given[f->n_given++] = i;
    }
    return OK;
}

static bool has_words(const fill *f) {
    for (int i = 0; i < f->n_made; i++)
        if (f->p->prompt[f->made[i]] && f->p->prompt[f->made[i]][0]) return true;
    return false;
}

/* y = y0 + r (y1 - y0) + g (y2 - y1): passes whose weight is 0 are not run. */
static void weigh(const fill *f, bool words, double w[PASSES]) {
    double r = f->n_given ? (double)f->p->ref_guidance : 0, g = words ? (double)f->p->guidance : 0;
    w[PASS_NOTHING] = 1 - r, w[PASS_GIVEN] = r - g, w[PASS_WORDS] = g;
    if (!f->n_given) w[PASS_NOTHING] += w[PASS_GIVEN], w[PASS_GIVEN] = 0; /* the same thing */
}

/* ---- rows ---- */
static void add_row(fill *f, int cell, int pass, bool given) { f->row[f->rows.n++] = (row){cell, pass, given}; }

/* Does row a see row b? What given cells are seen in the pass that has none: none. */
static bool row_sees(const fill *f, const row *a, const row *b) {
    if (a->pass >= 0 && b->pass >= 0 && a->pass != b->pass) return false;
    if (a->pass == PASS_NOTHING && b->given && a->cell != b->cell) return false;
    return grid_may_see(f->m->o.sight, !a->given, !b->given, a->cell == b->cell);
}

static void plan_rows(fill *f, bool words) {
    const grid_fill_params *p = f->p;
    double w[PASSES];
    bool canvas = p->geometry == GRID_CANVAS, apart = canvas || f->m->o.sight == GRID_SEES_ALL;
    weigh(f, words, w);
    for (int i = 0; i < PASSES; i++) f->pass[i] = w[i] != 0;
    f->kept = !apart && !f->m->o.noised && f->n_given > 0;
    f->rows = (grid_rows){.geometry = p->geometry, .rows = p->rows, .cols = p->cols, .h = p->h, .w = p->w, .tokens = f->tokens, .sees = f->sees};
    for (int i = 0; !apart && !f->kept && i < f->n_given; i++) add_row(f, f->given[i], -1, true);
    for (int k = 0; k < PASSES; k++)
        for (int i = 0; f->pass[k] && i < f->cells; i++)
            if (p->made[i] || canvas || (apart && k != PASS_NOTHING)) add_row(f, i, k, !p->made[i]);
    f->rows.columns = f->rows.n + (f->kept ? f->n_given : 0);
    for (int i = 0; i < f->rows.n; i++)
        for (int j = 0; j < f->rows.columns; j++) {
            row other = j < f->rows.n ? f->row[j] : (row){f->given[j - f->rows.n], -1, true};
            f->sees[i * f->rows.columns + j] = row_sees(f, &f->row[i], &other);
        }
}

/* ---- text ---- */
static status read_text(fill *f) {
    status st = OK;
    const grid_fill_params *p = f->p;
    for (int i = 0; i <= f->cells; i++) {
        int entries = 0, tokens = 0;
        const char *text = i ? p->prompt[i - 1] : p->negative;
        TRY(text_features(f->m->im, &(text_params){.prompt = text ? text : "", .plain = true}, &f->text[i], &entries, &tokens));
        if (f->tokens && tokens != f->tokens) TRY(fail(E_SHAPE, "texts of %d and %d tokens in one grid", tokens, f->tokens));
        f->tokens = tokens;
    }
out:
    return st;
}

static void fill_context(const fill *f, const row *r, int n, float *out) {
    size_t size = (size_t)f->tokens * (size_t)f->m->im->ck->text.hidden_size;
    for (int i = 0; i < n; i++) {
        bool words = r[i].given || r[i].pass == PASS_WORDS;
        memcpy(out + size * (size_t)i, f->text[words ? 1 + r[i].cell : 0], sizeof *out * size);
    }
}

/* ---- plans ---- */
static status record(imago *im, graph *g, const void *ctx) {
    const struct fill *f = ctx;
    const grid_rows *r = &f->rows;
    tensor *x = op_cast(g, graph_input(g, "x", DT_F32, SHAPE(r->n, r->h, r->w, f->c)), im->type);
    graph_output(g, grid_network(f->m, g, r, x), "y");
    return OK;
}

static void key_of(const fill *f, const char *what, char key[512]) {
    const grid_rows *r = &f->rows;
    int n = snprintf(key, 512, "grid %s %p %g %dx%d %d of %dx%d tokens %d %d ", what, (void *)f->m, f->m->strength, r->cols, r->rows, r->n, r->w, r->h,
                     r->tokens, (int)r->geometry);
    for (int i = 0; i < r->n * r->columns && n < 500; i += 4, n++) {
        int digit = 0;
        for (int k = 0; k < 4; k++) digit |= (i + k < r->n * r->columns && r->sees[i + k]) << k;
        key[n] = "0123456789abcdef"[digit];
    }
    key[n] = 0;
}

static status write_fixed(const fill *f, plan *p, const row *r, int n) {
    status st = OK;
    float traits[MAX_ROWS * GRID_TRAITS], strength[MAX_ROWS];
    for (int i = 0; i < n; i++) {
        float *seen = f->seen + (size_t)i * (f->one / (size_t)f->c) * (size_t)(f->c + 1);
        int from = grid_seen(f->p->role, f->p->made, f->cells, r[i].cell);
        bool shown = from >= 0 && (r[i].given || r[i].pass != PASS_NOTHING);
        const float *z = f->z + f->one * (size_t)MAX(from, 0);
        grid_traits(&f->m->o, f->p->role[r[i].cell], r[i].cell, traits + i * GRID_TRAITS);
        for (size_t k = 0; k < f->one / (size_t)f->c; k++) {
            for (int c = 0; c < f->c; c++) *seen++ = shown ? z[k * (size_t)f->c + (size_t)c] : 0;
            *seen++ = r[i].given ? 0 : 1;
        }
    }
    fill_context(f, r, n, f->context);
    TRY(plan_write(p, "traits", traits));
    TRY(plan_write(p, "seen", f->seen));
    TRY(plan_write(p, "context", f->context));
    for (int b = 0; f->m->o.banks && b < GRID_BANKS; b++) {
        char name[16];
        snprintf(name, sizeof name, "bank%d", b);
        for (int i = 0; i < n; i++) strength[i] = grid_bank_of(r[i].cell, !r[i].given) == b;
        TRY(plan_write(p, name, strength));
    }
out:
    return st;
}

/* The given cells' keys, for all steps. */
static status keep_given(fill *f) {
    status st = OK;
    plan *p = NULL;
    char key[512];
    row given[GRID_MAX_CELLS];
    fill once = *f;
    grid_kept *k = &f->m->kept;
    if (k->n && (k->cells != f->n_given || k->h != f->p->h || k->w != f->p->w)) TRY(grid_model_forget(f->m));
    k->cells = f->n_given, k->h = f->p->h, k->w = f->p->w;
    once.rows.n = once.rows.columns = f->n_given, once.rows.keep = true;
    for (int i = 0; i < f->n_given; i++) {
        given[i] = (row){f->given[i], -1, true};
        f->t[i] = 0;
        memcpy(f->in + f->one * (size_t)i, f->z + f->one * (size_t)f->given[i], sizeof *f->in * f->one);
    }
    for (int i = 0; i < f->n_given; i++)
        for (int j = 0; j < f->n_given; j++) once.sees[i * f->n_given + j] = row_sees(f, &given[i], &given[j]);
    once.rows.sees = once.sees;
    key_of(&once, "keep", key);
    TRY(engine_plan(f->m->im, key, record, &once, &p));
    TRY(write_fixed(f, p, given, f->n_given));
    TRY(plan_write(p, "x", f->in));
    TRY(plan_write(p, "t", f->t));
    TRY(engine_run(f->m->im, p));
out:
    return st;
}

/* ---- steps ---- */
static status evaluate(fill *f, plan *p, level at) {
    status st = OK;
    for (int i = 0; i < f->rows.n; i++) {
        const row *r = &f->row[i];
        float *in = f->in + f->one * (size_t)i;
        bool noised = r->given && f->m->o.noised;
        const float *from = (r->given ? f->z : f->x) + f->one * (size_t)r->cell, *eps = f->eps + f->one * (size_t)r->cell;
        f->t[i] = r->given && !noised ? 0 : (float)at.t;
        for (size_t k = 0; k < f->one; k++) in[k] = noised ? (float)at.alpha * from[k] + (float)at.sigma * eps[k] : from[k];
    }
    TRY(plan_write(p, "x", f->in));
    TRY(plan_write(p, "t", f->t));
    TRY(engine_run(f->m->im, p));
    TRY(plan_read(p, "y", f->y));
out:
    return st;
}

static void guess_x0(fill *f, bool words, level at) {
    double w[PASSES], wx, wy;
    weigh(f, words, w);
    prediction_to_x0(f->m->im->ck->schedule.prediction_type, at, &wx, &wy);
    for (int i = 0; i < f->n_made; i++) {
        size_t to = f->one * (size_t)f->made[i];
        for (size_t k = 0; k < f->one; k++) f->x0[to + k] = (float)wx * f->x[to + k];
    }
    for (int i = 0; i < f->rows.n; i++) {
        const row *r = &f->row[i];
        if (r->given) continue;
        size_t to = f->one * (size_t)r->cell, from = f->one * (size_t)i;
        for (size_t k = 0; k < f->one; k++) f->x0[to + k] += (float)(wy * w[r->pass]) * f->y[from + k];
    }
}

static void mix(fill *f, const sampler_mix *m) {
    for (int i = 0; i < f->n_made; i++)
        for (size_t k = f->one * (size_t)f->made[i], end = k + f->one; k < end; k++) {
            double kept[SAMPLER_MAX_KEPT] = {0}, now[SAMPLER_MAX_KEPT], next = m->x * (double)f->x[k] + m->x0 * (double)f->x0[k];
            for (int s = 0; s < f->plan.n_kept; s++) kept[s] = (double)f->kept_x[s][k], next += m->kept[s] * kept[s];
            for (int s = 0; s < f->plan.n_kept; s++) {
                now[s] = kept[s];
                if (!m->keep[s].set) continue;
                now[s] = m->keep[s].x * (double)f->x[k] + m->keep[s].x0 * (double)f->x0[k];
                for (int q = 0; q < f->plan.n_kept; q++) now[s] += m->keep[s].kept[q] * kept[q];
            }
            for (int s = 0; s < f->plan.n_kept; s++) f->kept_x[s][k] = (float)now[s];
            f->x[k] = (float)(next + m->noise * (double)f->noise[k]);
        }
}

static status sample(fill *f, bool words) {
    status st = OK;
    plan *p = NULL;
    char key[512];
    double begun = os_seconds();
    key_of(f, f->kept ? "step with kept" : "step", key);
    TRY(engine_plan(f->m->im, key, record, f, &p));
    TRY(grid_write_sight(f->m, p, &f->rows, NULL));
    TRY(write_fixed(f, p, f->row, f->rows.n));
    for (int i = 0; i < f->plan.n_calls; i++) {
        const sampler_call *c = &f->plan.call[i];
        engine_progress(f->m->im, IMAGO_SAMPLING, i, f->plan.n_calls, begun);
        for (int k = 0; c->mix.noise != 0 && k < f->n_made; k++)
            TRY(latent_noise(f->m->im, &f->gen[f->made[k]], f->p->h, f->p->w, f->noise + f->one * (size_t)f->made[k]));
        TRY(evaluate(f, p, c->at));
        guess_x0(f, words, c->at);
        mix(f, &c->mix);
    }
    engine_progress(f->m->im, IMAGO_SAMPLING, f->plan.n_calls, f->plan.n_calls, begun);
out:
    return st;
}

/* ---- all of it ---- */
static status memory(fill *f) {
    size_t cells = f->one * (size_t)f->cells, rows = f->one * MAX_ROWS, hidden = (size_t)f->m->im->ck->text.hidden_size;
    size_t n = 4 * cells + 2 * rows + rows / (size_t)f->c * (size_t)(f->c + 1) + MAX_ROWS * (size_t)f->tokens * hidden + MAX_ROWS + SAMPLER_MAX_KEPT * cells;
    float *at = f->x = mem_zalloc(sizeof *at * n);
    if (!at) return fail(E_HOST_MEMORY, "no host memory for a grid of %d cells", f->cells);
    f->eps = (at += cells), f->x0 = (at += cells), f->noise = (at += cells), f->kept_x[0] = (at += cells);
    for (int s = 1; s < SAMPLER_MAX_KEPT; s++) f->kept_x[s] = (at += cells);
    f->in = (at += cells), f->y = (at += rows), f->seen = (at += rows);
    f->context = (at += rows / (size_t)f->c * (size_t)(f->c + 1));
    f->t = at + MAX_ROWS * (size_t)f->tokens * hidden;
    return OK;
}

/* A cell's noise is that of a picture of its own, of seed + cell: other cells come and go without changing it. */
static status start(fill *f) {
    status st = OK;
    const grid_fill_params *p = f->p;
    f->sp = (sampler_params){.steps = p->steps ? p->steps : 20, .eta = -1, .strength = 1, .spacing = p->sampler ? -1 : SPACING_TRAILING};
    if (!sampler_alias(p->sampler ? p->sampler : "ddim", &f->sampler, &f->sp))
        return fail(E_USAGE, "sampler '%s' is not known; see imago generate --help for the list", p->sampler);
    TRY(sampler_expand(f->sampler, &f->m->im->ck->schedule, &f->sp, &f->plan));
    for (int i = 0; i < f->cells; i++) {
        size_t at = f->one * (size_t)i;
        noise_init(&f->gen[i], NOISE_CPU, DT_F32, p->seed + (uint64_t)i);
        TRY(latent_noise(f->m->im, &f->gen[i], p->h, p->w, f->eps + at));
        for (size_t k = 0; k < f->one; k++) f->x[at + k] = (float)f->plan.noise_scale * f->eps[at + k];
    }
out:
    return st;
}

status grid_fill(grid_model *m, const grid_fill_params *p, float *z, grid_fill_report *report) {
    status st = OK;
    fill f = {.m = m, .p = p, .z = z};
    double begun = os_seconds(), after = begun;
    TRY(check(&f));
    if (!f.n_made) goto out;
    bool words = has_words(&f) && p->guidance != 0;
    TRY(read_text(&f));
    plan_rows(&f, words);
    TRY(memory(&f));
    TRY(start(&f));
    if (f.kept) TRY(keep_given(&f));
    after = os_seconds();
    TRY(sample(&f, words));
    for (int i = 0; i < f.n_made; i++) memcpy(z + f.one * (size_t)f.made[i], f.x + f.one * (size_t)f.made[i], sizeof *z * f.one);
    if (report)
        *report = (grid_fill_report){os_seconds() - begun, after - begun, f.plan.n_calls, f.rows.n, f.rows.n + (f.kept ? f.n_given : 0), f.kept};
out:
    sampler_plan_fini(&f.plan);
    for (int i = 0; i <= GRID_MAX_CELLS; i++) mem_free(f.text[i]);
    mem_free(f.x);
    return st;
}
