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

/* Everything that a plan depends on. */
typedef struct step_shape { morph_shape s; bool guided; int frames, rows, sets; } step_shape;

static bool fewer_keys(const morph_shape *s) { return s->mode == MORPH_ENDS || s->mode == MORPH_BLEND; }

/* Position among the keys of row r, given `fewer_keys`: the unconditional half, then the first and the last frame. */
static uint16_t key_of(const step_shape *p, int r) {
    int half = p->guided ? p->rows / 2 : 0, last = p->rows - 1;
    if (!fewer_keys(&p->s) || r <= half) return (uint16_t)r;
    assert(r == last);
    (void)last;
    return (uint16_t)(half + 1);
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
    int half = p->guided ? p->rows / 2 : 0, last = p->rows - 1;
    attention_set *sets = graph_alloc(g, sizeof *sets * (size_t)(p->rows * p->sets)); /* zeroed: sets without keys */
    attention_set *text = graph_alloc(g, sizeof *text * (size_t)(p->rows * p->sets));
    if (!sets || !text) return graph_status(g);
    for (int r = 0; r < p->rows; r++) {
        bool conditional = r >= half;
        int frame = frame_of(p->frames, p->s.part, conditional ? r - half : r);
        bool reads_own = !conditional || !fewer_keys(&p->s) || r == half || r == last;
        fill_sets(p, frame, conditional, reads_own ? key_of(p, r) : 0, key_of(p, half), key_of(p, last), sets + r * p->sets);
        fill_sets(p, frame, conditional, (uint16_t)(conditional ? 1 + frame : 0), 1, (uint16_t)p->frames, text + r * p->sets);
    }
    *rule = (attention_rule){.n_sets = p->sets, .sets = sets, .text_sets = text, .mean = p->s.mode == MORPH_MEAN};
    if (p->sets > 1) rule->weights = graph_input(g, "blend", DT_F32, SHAPE(p->rows, p->sets));
    if (fewer_keys(&p->s)) {
        rule->n_keys = 2;
        rule->keys[0].end = half + 1;
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
    if (p->guided) in = op_concat(g, 0, in, in);
    TRY(make_rule(g, p, &rule));
    int rows = p->rows, moving = p->guided ? rows / 2 : rows;
    y[0] = denoise_network(im, g, &rule, in);
    if (p->guided) y[1] = op_slice(g, y[0], 0, moving, rows), y[0] = op_slice(g, y[0], 0, 0, moving);
    int n = p->guided ? 3 : 2;
    tensor *next = op_mix(g, ((tensor *[]){from, y[0], y[1]}), n, graph_input(g, "next", DT_F32, SHAPE(moving, n)), NULL, NULL);
    op_store(g, all, put(g, all, next, p->s.part, p->frames));
out:
    return st;
}

/* x0 = wx x + wp y and next = m.x x + m.x0 x0 with y = (1 - g) u + g c, as one sum over x, u, c. */
static void next_weights(const imago *im, const sampler_call *call, float guidance, bool guided, double w[3]) {
    double wx, wp, g = guided ? (double)guidance : 0;
    prediction_to_x0(im->ck->schedule.prediction_type, call->at, &wx, &wp);
    w[0] = call->mix.x + call->mix.x0 * wx;
    w[1] = call->mix.x0 * wp * (1 - g);
    w[2] = call->mix.x0 * wp * g;
}

static status write_blend(plan *p, const step_shape *s) {
    int half = s->guided ? s->rows / 2 : 0;
    float *w = mem_zalloc(sizeof *w * (size_t)(s->rows * s->sets));
    if (!w) return fail(E_HOST_MEMORY, "no host memory for blend weights");
    for (int r = 0; r < s->rows; r++) {
        int frame = frame_of(s->frames, s->s.part, r - half);
        bool plain = r < half || (s->s.mode != MORPH_ENDS && (frame == 0 || frame == s->frames - 1));
        double c = plain ? 0 : s->s.mode == MORPH_ENDS ? 0.5 : morph_blend(frame, s->frames);
        w[r * s->sets] = (float)(1 - c), w[r * s->sets + 1] = (float)c;
    }
    status st = plan_write(p, "blend", w);
    mem_free(w);
    return st;
}

static step_shape settle(const imago *im, const morph_shape *wish, float guidance) {
    step_shape s = {*wish, guidance != 1 && im->ck->unet.time_cond_proj_dim == 0, im->lat.batch, morph_rows(im->lat.batch, wish->part), 1};
    assert(wish->mode == MORPH_PLAIN || wish->part == MORPH_ALL);
    assert(wish->mode != MORPH_MEAN || !s.guided);
    if (s.guided) s.rows *= 2;
    if (wish->mode == MORPH_ENDS || wish->mode == MORPH_BLEND || wish->mode == MORPH_FUSED) s.sets = 2;
    return s;
}

static status get_plan(imago *im, const step_shape *s, plan **out) {
    static const char *const modes[MORPH_MODE_COUNT] = {"plain", "mean", "ends", "blend", "fused"};
    const latents *l = &im->lat;
    char key[128];
    snprintf(key, sizeof key, "morph %s %s%spart %d of %dx%dx%d tokens %d", modes[s->s.mode], s->s.up ? "up " : "", s->guided ? "guided " : "",
             (int)s->s.part, l->batch, l->h, l->w, l->tokens);
    return engine_plan(im, key, record, s, out);
}

status morph_compile(imago *im, const morph_shape *wish, float guidance, plan **out) {
    step_shape s = settle(im, wish, guidance);
    return get_plan(im, &s, out);
}

status morph_step(imago *im, const morph_shape *wish, const sampler_call *call, float guidance) {
    status st = OK;
    step_shape s = settle(im, wish, guidance);
    int moving = s.guided ? s.rows / 2 : s.rows, n = s.guided ? 3 : 2;
    plan *p = NULL;
    double w[3];
    TRY(get_plan(im, &s, &p));
    TRY(denoise_write_time(im, p, s.rows, call->at.t, guidance));
    next_weights(im, call, guidance, s.guided, w);
    TRY(denoise_write_rows(p, "next", moving, w, n));
    if (s.sets > 1) TRY(write_blend(p, &s));
    TRY(engine_run(im, p));
out:
    return st;
}
