/* grid_step.c: one training step on grids: which cells are made, dropped and told, by lot; the loss of those that are made.
 * Masks are data, not structure: one plan serves them all.
 * SPDX-License-Identifier: MIT */
#include "engine/grid_step.h"
#include "train/noising.h"
#include <math.h>
#include <stdio.h>

/* ---- what a grid asks for ---- */
enum { D_OWN, D_COUNT, D_DROP, D_WORDS, D_CELL, D_CELL_DROP = D_CELL + GRID_MAX_CELLS };
#define OWN_CELLS  0.7  /* share of grids in which the layout's own cells are made */
#define CELL_DROP  0.05 /* of given cells, each by itself */
#define EDIT_WORDS 0.5  /* share of edits that are told what comes out */

/* m cells of n, by lot: those with the m smallest numbers. */
static void draw_cells(rng_key key, uint64_t sample, int n, int m, bool *made) {
    for (int i = 0; i < n; i++) {
        double own = rng_uniform(key, sample, (uint64_t)(D_CELL + i));
        int before = 0;
        for (int k = 0; k < n; k++) {
            double other = rng_uniform(key, sample, (uint64_t)(D_CELL + k));
            before += other < own || (other == own && k < i);
        }
        made[i] = before < m;
    }
}

void grid_draw_task(uint32_t seed, uint64_t sample, const grid_layout *l, grid_task *out) {
    rng_key key = {{seed, 0}, rng_stream("grid tasks")};
    int n = l->rows * l->cols;
    double u = rng_uniform(key, sample, D_COUNT), drop = rng_uniform(key, sample, D_DROP);
    int m = u < 0.55 ? 1 : u < 0.80 ? 2 : u < 0.95 ? 3 : 4;
    *out = (grid_task){.layout = l};
    if (rng_uniform(key, sample, D_OWN) < OWN_CELLS) memcpy(out->made, l->made, sizeof out->made);
    else draw_cells(key, sample, n, MIN(m, n), out->made);
    /* no words, no given cells, and neither, a twentieth each (Brooks et al. 2023) */
    bool edit = l->role[0] == GRID_EX_IN;
    out->words = drop >= 0.10 && (!edit || rng_uniform(key, sample, D_WORDS) < EDIT_WORDS);
    for (int i = 0; i < n; i++)
        out->dropped[i] = !out->made[i] && ((drop >= 0.05 && drop < 0.15) || rng_uniform(key, sample, (uint64_t)(D_CELL_DROP + i)) < CELL_DROP);
}

/* ---- the loss ---- */
tensor *grid_loss(grid_model *m, graph *g, const grid_rows *r, tensor **out) {
    shape s = SHAPE(r->n, r->h, r->w, m->im->ck->vae.latent_channels);
    tensor *x0 = graph_input(g, "x0", DT_F32, s);
    tensor *level_x = graph_input(g, "level_x", DT_F32, SHAPE(r->n, 2)), *level_v = graph_input(g, "level_v", DT_F32, SHAPE(r->n, 2));
    tensor *noise = op_randn(g, graph_input(g, "seed", DT_U32, SHAPE(2)), graph_input(g, "sample", DT_U32, SHAPE(r->n)), rng_stream("noise"), s, DT_F32);
    tensor *both[] = {x0, noise}, *wanted = op_mix(g, both, 2, level_v, NULL, NULL);
    tensor *y = grid_network(m, g, r, op_cast(g, op_mix(g, both, 2, level_x, NULL, NULL), m->im->type));
    if (out) *out = y;
    return op_mse(g, y, wanted, graph_input(g, "weight", DT_F32, SHAPE(r->n)), NULL);
}

status grid_batch_create(const grid_model *m, int grids, int rows, int cols, int h, int w, int tokens, grid_geometry geometry, grid_batch *b) {
    int cells = rows * cols, n = grids * cells;
    size_t one = (size_t)h * (size_t)w, c = (size_t)m->im->ck->vae.latent_channels, k = (size_t)n;
    size_t text = (size_t)tokens * (size_t)m->im->ck->text.hidden_size;
    *b = (grid_batch){.grids = grids, .cells = cells, .one = one * c, .text = text};
    b->z = mem_zalloc(sizeof *b->z * k * (one * c + one * (c + 1) + text + 2 + GRID_TRAITS + GRID_BANKS + 4));
    b->task = mem_zalloc(sizeof *b->task * (size_t)grids);
    b->sample = mem_zalloc(sizeof *b->sample * k);
    b->sees = mem_zalloc(2 * k * k);
    b->abar = mem_alloc(sizeof *b->abar * (size_t)m->im->ck->schedule.num_train_timesteps);
    if (!b->z || !b->task || !b->sample || !b->sees || !b->abar) return fail(E_HOST_MEMORY, "no host memory for a batch of %d grids", grids);
    b->seen = b->z + k * one * c, b->context = b->seen + k * one * (c + 1), b->t = b->context + k * text, b->weight = b->t + k;
    b->level_x = b->weight + k, b->level_v = b->level_x + 2 * k, b->traits = b->level_v + 2 * k, b->bank = b->traits + k * GRID_TRAITS;
    for (size_t i = 0; i < k * k; i++) b->sees[i] = (int)(i / k) / cells == (int)(i % k) / cells;
    b->rows = (grid_rows){.geometry = geometry, .rows = rows, .cols = cols, .n = n, .h = h, .w = w, .tokens = tokens, .sees = b->sees, .columns = n, .masked = true};
    return schedule_alphas_cumprod(&m->im->ck->schedule, b->abar);
}

void grid_batch_destroy(grid_batch *b) {
    void *all[] = {b->z, b->task, b->sample, b->sees, b->abar};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) mem_free(all[i]);
    *b = (grid_batch){0};
}

/* Everything but latents and texts, from the tasks: levels of noise, who sees whom, what counts. */
static void settle_cell(const grid_model *m, grid_batch *b, int g, int k, const float level_x[2], const float level_v[2], float t) {
    const grid_task *task = &b->task[g];
    size_t i = (size_t)(g * b->cells + k), c = (size_t)m->im->ck->vae.latent_channels;
    bool made = task->made[k], clean = !made && !m->o.noised;
    int n_made = 0;
    for (int q = 0; q < b->cells; q++) n_made += task->made[q];
    b->t[i] = clean ? 0 : t;
    b->level_x[2 * i] = clean ? 1 : level_x[0], b->level_x[2 * i + 1] = clean ? 0 : level_x[1];
    memcpy(b->level_v + 2 * i, level_v, 2 * sizeof *level_v);
    b->weight[i] = made ? (float)b->cells / (float)n_made : 0; /* a grid counts the same, however many of its cells are made */
    grid_traits(&m->o, task->layout->role[k], k, b->traits + i * GRID_TRAITS);
    float *seen = b->seen + i * (b->one / c) * (c + 1);
    int from = grid_seen(task->layout->role, task->made, b->cells, k);
    bool shown = from == k || (from >= 0 && !task->dropped[from]);
    for (size_t p = 0; p < b->one / c; p++, seen += c + 1) {
        for (size_t q = 0; q < c; q++) seen[q] = shown ? b->z[(size_t)(g * b->cells + from) * b->one + p * c + q] : 0;
        seen[c] = made;
    }
    bool *now = b->sees + (size_t)b->rows.n * (size_t)b->rows.n + i * (size_t)b->rows.n;
    memset(now, 0, (size_t)b->rows.n);
    for (int q = 0; q < b->cells; q++)
        now[g * b->cells + q] = grid_may_see(m->o.sight, made, task->made[q], q == k) && (q == k || !task->dropped[q]);
    for (int q = 0; q < GRID_BANKS; q++) b->bank[(size_t)(q * b->rows.n) + i] = grid_bank_of(k, made) == q;
}

static void target_of(prediction p, float level_v[2]) {
    if (p == PREDICTION_EPSILON) level_v[0] = 0, level_v[1] = 1;
    if (p == PREDICTION_SAMPLE) level_v[0] = 1, level_v[1] = 0; /* v: as noising_draw has it */
}

status grid_batch_write(const grid_model *m, grid_batch *b, plan *p, uint32_t seed, uint64_t first) {
    status st = OK;
    float t[GRID_BATCH_MAX], level_x[GRID_BATCH_MAX][2], level_v[GRID_BATCH_MAX][2];
    const schedule_config *s = &m->im->ck->schedule;
    noising_draw(s, b->abar, seed, (int64_t)(first / (uint64_t)b->grids), 1, b->grids, t, level_x, level_v);
    for (int g = 0; g < b->grids; g++) {
        target_of(s->prediction_type, level_v[g]);
        for (int k = 0; k < b->cells; k++) {
            settle_cell(m, b, g, k, level_x[g], level_v[g], t[g]);
            b->sample[g * b->cells + k] = (uint32_t)((first + (uint64_t)g) * GRID_MAX_CELLS + (uint64_t)k);
        }
    }
    const struct { const char *name; const void *data; } all[] = {{"x0", b->z}, {"t", b->t}, {"level_x", b->level_x}, {"level_v", b->level_v},
        {"weight", b->weight}, {"traits", b->traits}, {"seen", b->seen}, {"context", b->context}, {"sample", b->sample}, {"seed", (uint32_t[]){seed, 0}}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) TRY(plan_write(p, all[i].name, all[i].data));
    for (int q = 0; m->o.banks && q < GRID_BANKS; q++) {
        char name[16];
        snprintf(name, sizeof name, "bank%d", q);
        TRY(plan_write(p, name, b->bank + q * b->rows.n));
    }
    TRY(grid_write_sight(m, p, &b->rows, b->sees + (size_t)b->rows.n * (size_t)b->rows.n));
out:
    return st;
}
