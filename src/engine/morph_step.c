/* morph_step.c: one network call of a morph as one plan: all frames that move are a batch, with guidance twice (unconditional
 * first); who looks at whose keys is a rule of attention, so the network knows nothing of morphing.
 * Left out because they change nothing: frames that no later step looks at, text keys per call, keys of frames that
 * nobody reads, second passes of entries with one key set, output projections of equal rows.
 * SPDX-License-Identifier: MIT */
#include "engine/morph.h"
#include "op/op.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>

/* int(steps * 0.3) and int(steps * 0.6) are shares of the whole schedule, and the steps at them are plain: the released
 * comparisons are strict on both sides. */
morph_mode morph_mode_up(int i, int steps) {
    int low = steps * 3 / 10, high = steps * 6 / 10;
    if (i > high) return MORPH_ENDS;
    return i > low && i < high ? MORPH_MEAN : MORPH_PLAIN;
}

morph_mode morph_mode_down(int i, int n) {
    if (i < n * 2 / 10) return MORPH_BLEND;
    return i < n * 6 / 10 ? MORPH_FUSED : MORPH_PLAIN;
}

bool morph_idle(const sampler_call *call) { return fabs(call->mix.x - 1) < 1e-12 && fabs(call->mix.x0) < 1e-12; }

int morph_rows(int frames, morph_part who) { return who == MORPH_ALL ? frames : who == MORPH_OUTER ? 2 : frames - 2; }

static int frame_of(int frames, morph_part who, int row) {
    return who == MORPH_ALL ? row : who == MORPH_OUTER ? row * (frames - 1) : row + 1;
}

/* Everything that a plan depends on. Rows: `free` unconditional ones, then `moving` conditional ones. */
typedef struct step_shape { morph_shape s; int frames, free, moving, rows, sets; } step_shape;

static bool fewer_keys(const morph_shape *s) { return s->mode == MORPH_ENDS || s->mode == MORPH_BLEND; }

/* Frame of row r. Lean: the ends have no unconditional row. */
static int frame_at(const step_shape *p, int r) {
    if (r < p->free) return p->s.lean ? r + 1 : frame_of(p->frames, p->s.part, r);
    return frame_of(p->frames, p->s.part, r - p->free);
}

/* Position among the keys of row r, given `fewer_keys`: the unconditional rows, then the first and the last frame. */
static uint16_t key_of(const step_shape *p, int r) {
    if (!fewer_keys(&p->s) || r <= p->free) return (uint16_t)r;
    assert(r == p->rows - 1);
    return (uint16_t)(p->free + 1);
}

/* Sets of one row: `own`, `first` and `last` are entries of the bank. */
static void fill_sets(const step_shape *p, int frame, bool conditional, uint16_t own, uint16_t first, uint16_t last, attention_set *out) {
    attention_set plain = {1, {{0, own}}};
    bool end = frame == 0 || frame == p->frames - 1;
    morph_mode mode = conditional ? p->s.mode : MORPH_PLAIN;
    out[0] = plain;
    if (mode == MORPH_ENDS || (mode == MORPH_BLEND && !end)) {
        out[0] = (attention_set){1, {{0, first}}};
        out[1] = (attention_set){1, {{0, last}}};
    } else if (mode == MORPH_FUSED && !end) {
        out[0] = (attention_set){2, {{0, own}, {0, first}}};
        out[1] = (attention_set){2, {{0, own}, {0, last}}};
    }
}

static status make_rule(graph *g, const step_shape *p, attention_rule *rule) {
    int last = p->rows - 1;
    attention_set *sets = graph_alloc(g, sizeof *sets * (size_t)(p->rows * p->sets)); /* zeroed: sets without keys */
    attention_set *text = graph_alloc(g, sizeof *text * (size_t)(p->rows * p->sets));
    if (!sets || !text) return graph_status(g);
    for (int r = 0; r < p->rows; r++) {
        bool conditional = r >= p->free;
        int frame = frame_at(p, r);
        bool reads_own = !conditional || !fewer_keys(&p->s) || r == p->free || r == last;
        fill_sets(p, frame, conditional, reads_own ? key_of(p, r) : 0, key_of(p, p->free), key_of(p, last), sets + r * p->sets);
        fill_sets(p, frame, conditional, (uint16_t)(conditional ? 1 + frame : 0), 1, (uint16_t)p->frames, text + r * p->sets);
    }
    *rule = (attention_rule){.n_sets = p->sets, .sets = sets, .text_sets = text, .mean = p->s.mode == MORPH_MEAN};
    if (p->sets > 1) rule->weights = graph_input(g, "blend", DT_F32, SHAPE(p->rows, p->sets));
    if (fewer_keys(&p->s)) {
        rule->n_keys = 2;
        rule->keys[0].end = p->free + 1;
        rule->keys[1].begin = last, rule->keys[1].end = last + 1;
    }
    return OK;
}

static tensor *take(graph *g, tensor *x, morph_part who, int n) {
    switch (who) {
    case MORPH_ALL: return x;
    case MORPH_OUTER: return n == 2 ? x : op_concat(g, 0, op_slice(g, x, 0, 0, 1), op_slice(g, x, 0, n - 1, n));
    case MORPH_INNER: return op_slice(g, x, 0, 1, n - 1);
    }
    return x;
}

static tensor *put(graph *g, tensor *x, tensor *moved, morph_part who, int n) {
    switch (who) {
    case MORPH_ALL: return moved;
    case MORPH_OUTER: return n == 2 ? moved : op_concat(g, 0, op_slice(g, moved, 0, 0, 1), op_slice(g, x, 0, 1, n - 1), op_slice(g, moved, 0, 1, 2));
    case MORPH_INNER: return op_concat(g, 0, op_slice(g, x, 0, 0, 1), moved, op_slice(g, x, 0, n - 1, n));
    }
    return moved;
}

static status record(imago *im, graph *g, const void *ctx) {
    status st = OK;
    const step_shape *p = ctx;
    const latents *l = &im->lat;
    attention_rule rule;
    tensor *all = graph_array(g, l->x), *x = take(g, all, p->s.part, p->frames), *from = x, *y[2] = {0};
    if (p->s.up) from = take(g, graph_array(g, l->kept[0]), p->s.part, p->frames);
    tensor *in = op_cast(g, x, im->type);
    if (p->free) in = op_concat(g, 0, p->s.lean ? op_slice(g, in, 0, 1, p->frames - 1) : in, in);
    TRY(make_rule(g, p, &rule));
    y[0] = denoise_network(im, g, &rule, in);
    if (p->free) {
        tensor *u = op_slice(g, y[0], 0, 0, p->free), *c = op_slice(g, y[0], 0, p->free, p->rows);
        if (p->s.lean) u = op_concat(g, 0, op_slice(g, c, 0, 0, 1), u, op_slice(g, c, 0, p->frames - 1, p->frames));
        y[0] = u, y[1] = c;
    }
    int n = p->free ? 3 : 2;
    tensor *next = op_mix(g, ((tensor *[]){from, y[0], y[1]}), n, graph_input(g, "next", DT_F32, SHAPE(p->moving, n)), NULL, NULL);
    op_store(g, all, put(g, all, next, p->s.part, p->frames));
out:
    return st;
}

morph_update morph_update_of(const imago *im, const sampler_call *call) {
    double wx, wp;
    prediction_to_x0(im->ck->schedule.prediction_type, call->at, &wx, &wp);
    return (morph_update){call->at.t, call->mix.x + call->mix.x0 * wx, call->mix.x0 * wp};
}

/* next = x from + y ((1 - g) u + g c), as one sum over from, u, c. */
static status write_next(plan *p, const step_shape *s, const morph_update *u, const morph_dials *d) {
    int n = s->free ? 3 : 2;
    float *w = mem_alloc(sizeof *w * (size_t)(s->moving * n));
    if (!w) return fail(E_HOST_MEMORY, "no host memory for the weights of a step");
    for (int r = 0; r < s->moving; r++) {
        double g = !s->free ? 0 : d->frame_guidance ? d->frame_guidance[frame_at(s, s->free + r)] : (double)d->guidance;
        w[r * n] = (float)u->x, w[r * n + 1] = (float)(u->y * (1 - g));
        if (s->free) w[r * n + 2] = (float)(u->y * g);
    }
    status st = plan_write(p, "next", w);
    mem_free(w);
    return st;
}

static status write_blend(plan *p, const step_shape *s, const morph_dials *d) {
    float *w = mem_zalloc(sizeof *w * (size_t)(s->rows * s->sets));
    if (!w) return fail(E_HOST_MEMORY, "no host memory for blend weights");
    for (int r = 0; r < s->rows; r++) {
        int frame = frame_at(s, r);
        bool plain = r < s->free || (s->s.mode != MORPH_ENDS && (frame == 0 || frame == s->frames - 1));
        double share = d->share ? d->share[frame] : (double)frame / (s->frames - 1);
        double c = plain ? 0 : s->s.mode == MORPH_ENDS ? 0.5 : morph_blend(share);
        w[r * s->sets] = (float)(1 - c), w[r * s->sets + 1] = (float)c;
    }
    status st = plan_write(p, "blend", w);
    mem_free(w);
    return st;
}

static step_shape settle(const imago *im, const morph_shape *wish, bool guided) {
    int frames = im->lat.batch;
    step_shape s = {.s = *wish, .frames = frames, .moving = morph_rows(frames, wish->part), .sets = 1};
    assert(wish->mode == MORPH_PLAIN || wish->part == MORPH_ALL);
    assert(!wish->lean || (wish->part == MORPH_ALL && frames > 2));
    if (guided && im->ck->unet.time_cond_proj_dim == 0) s.free = wish->lean ? frames - 2 : s.moving;
    assert(wish->mode != MORPH_MEAN || !s.free);
    s.rows = s.free + s.moving;
    if (wish->mode == MORPH_ENDS || wish->mode == MORPH_BLEND || wish->mode == MORPH_FUSED) s.sets = 2;
    return s;
}

static status get_plan(imago *im, const step_shape *s, plan **out) {
    static const char *const modes[MORPH_MODE_COUNT] = {"plain", "mean", "ends", "blend", "fused"};
    const latents *l = &im->lat;
    char key[128];
    snprintf(key, sizeof key, "morph %s %s%d free part %d of %dx%dx%d tokens %d", modes[s->s.mode], s->s.up ? "up " : "", s->free,
             (int)s->s.part, l->batch, l->h, l->w, l->tokens);
    return engine_plan(im, key, record, s, out);
}

status morph_compile(imago *im, const morph_shape *wish, bool guided, plan **out) {
    step_shape s = settle(im, wish, guided);
    return get_plan(im, &s, out);
}

status morph_step(imago *im, const morph_shape *wish, const morph_update *u, const morph_dials *d) {
    status st = OK;
    step_shape s = settle(im, wish, d->guidance != 1);
    plan *p = NULL;
    TRY(get_plan(im, &s, &p));
    TRY(denoise_write_time(im, p, s.rows, u->t, d->guidance));
    TRY(write_next(p, &s, u, d));
    if (s.sets > 1) TRY(write_blend(p, &s, d));
    TRY(engine_run(im, p));
out:
    return st;
}
