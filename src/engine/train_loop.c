/* train_loop.c: the loop of training: feed, run, step, and now and then log, sheet, save. What is
 * saved is always the state between two steps; everything random is keyed by the sample's number,
 * so a run that was cut off and goes on gives the weights of one that was not.
 * SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include "file/file.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct loop {
    const train_params *p;
    const train_stage *s;
    optimizer opt;
    loss_scaler scaler;
    train_log *log;
    progress bar;
    int64_t step;
    uint64_t sample; /* done */
    double sum[TRAIN_MAX_SHOWN], norm_sum;
    int64_t summed, skipped; /* since the last line of the log */
    double last_line, last_save, last_sheet, last_value, rate;
    int64_t last_step;
} loop;

static const char *path_in(const loop *l, const char *name, char out[1200]) {
    snprintf(out, 1200, "%s/%s", l->p->folder, name);
    return out;
}

enum {
    NOTE_STEP,
    NOTE_ADAM,
    NOTE_SAMPLE,
    NOTE_SEED,
    NOTE_SCALE,
    NOTE_GOOD,
    NOTE_D,
    NOTE_NUMERATOR,
    NOTES
};

static int64_t bits_of(double v) {
    int64_t i;
    memcpy(&i, &v, sizeof i);
    return i;
}

static double of_bits(int64_t i) {
    double v;
    memcpy(&v, &i, sizeof v);
    return v;
}

/* How many of the notes a state has. */
static int notes(const loop *l) { return l->opt.kind == OPTIMIZER_PRODIGY ? NOTES : NOTE_D; }

static void get_notes(const loop *l, train_note n[NOTES]) {
    const train_note now[NOTES] = {{"step", l->step},
                                   {"adam_step", l->opt.step},
                                   {"sample", (int64_t)l->sample},
                                   {"seed", l->p->seed},
                                   {"loss_scale", (int64_t)l->scaler.scale},
                                   {"loss_scale_good", l->scaler.good},
                                   {"prodigy_d", bits_of(l->opt.d)},
                                   {"prodigy_numerator", bits_of(l->opt.numerator)}};
    memcpy(n, now, sizeof now);
}

static status save_state(loop *l) {
    char path[1200];
    train_note n[NOTES];
    get_notes(l, n);
    l->last_save = os_seconds();
    return train_state_save(path_in(l, "state.safetensors", path), &l->opt, l->s->part_name, n,
                            notes(l));
}

/* Is the state at path that of a run which has done all its steps? */
static status all_done(const loop *l, const char *path, bool *done) {
    safetensors *f = NULL;
    status st = safetensors_open(path, &f);
    if (st != OK) return st;
    const char *step = safetensors_find_note(f, "step");
    *done = step && strtoll(step, NULL, 10) >= l->p->lr.steps;
    safetensors_close(f);
    return OK;
}

static status resume(loop *l) {
    status st = OK;
    char path[1200];
    train_note n[NOTES];
    bool anew = l->p->anew;
    if (!os_file_exists(path_in(l, "state.safetensors", path))) return OK;
    if (!anew && l->p->repeat) TRY(all_done(l, path, &anew));
    if (anew) return save_state(l); /* at once: the old one must not be taken for this run's */
    get_notes(l, n);
    TRY(train_state_load(path, &l->opt, l->s->part_name, n, notes(l)));
    if (n[NOTE_SEED].value != l->p->seed)
        TRY(fail(E_USAGE, "%s was begun with seed %lld, not %u: give that seed or another folder",
                 path, (long long)n[NOTE_SEED].value, l->p->seed));
    if (n[NOTE_STEP].value < 0 || n[NOTE_ADAM].value < 0 || n[NOTE_SAMPLE].value < 0 ||
        n[NOTE_SCALE].value < 1 || n[NOTE_SCALE].value > 1 << 24)
        TRY(fail(E_FORMAT, "%s: its counters make no sense", path));
    if (notes(l) == NOTES && !(isfinite(of_bits(n[NOTE_D].value)) && of_bits(n[NOTE_D].value) > 0 &&
                               isfinite(of_bits(n[NOTE_NUMERATOR].value))))
        TRY(fail(E_FORMAT, "%s: its estimate of the learning rate makes no sense", path));
    l->step = n[NOTE_STEP].value;
    l->opt.step = n[NOTE_ADAM].value;
    l->sample = (uint64_t)n[NOTE_SAMPLE].value;
    l->opt.d = of_bits(n[NOTE_D].value);
    l->opt.numerator = of_bits(n[NOTE_NUMERATOR].value);
    if (l->scaler.good >= 0)
        l->scaler = (loss_scaler){(float)n[NOTE_SCALE].value, MAX(n[NOTE_GOOD].value, 0)};
    log_info("%s: going on after step %lld, sample %llu", l->p->folder, (long long)l->step,
             (unsigned long long)l->sample);
out:
    return st;
}

static status write_log(loop *l, record_value *extra, int n_extra) {
    status st = OK;
    char path[1200];
    double now = os_seconds(),
           each = l->summed ? 1.0 / (double)(l->summed * l->p->accumulate) : NAN;
    record_value v[RECORD_MAX_VALUES];
    int n = 0;
    v[n++] = (record_value){"samples", (double)l->sample};
    for (int i = 0; i < l->s->n_show; i++) v[n++] = (record_value){l->s->show[i], l->sum[i] * each};
    v[n++] = (record_value){"grad_norm", l->norm_sum / (double)MAX(l->summed, 1)};
    v[n++] = (record_value){"lr", lr_at(&l->p->lr, l->step - 1)};
    l->rate = (double)((l->step - l->last_step) * l->p->batch * l->p->accumulate) /
              MAX(now - l->last_line, 1e-9);
    v[n++] = (record_value){"samples_per_s", l->rate};
    if (l->opt.kind == OPTIMIZER_PRODIGY) v[n++] = (record_value){"d", l->opt.d};
    if (l->skipped) v[n++] = (record_value){"skipped", (double)l->skipped};
    for (int i = 0; i < n_extra && n < RECORD_MAX_VALUES; i++) v[n++] = extra[i];
    TRY(train_log_add(l->log, l->step, v, n));
    TRY(train_log_plot(l->log, l->s->show[0], path_in(l, "curve.png", path)));
    memset(l->sum, 0, sizeof l->sum);
    l->norm_sum = 0;
    l->summed = l->skipped = 0;
    l->last_line = now;
    l->last_step = l->step;
out:
    return st;
}

static status probe(loop *l) {
    record_value v[RECORD_MAX_VALUES];
    int n = 0;
    status st = l->s->probe(l->s->ctx, l->step, v, &n);
    return st == OK && n ? train_log_add(l->log, l->step, v, n) : st;
}

static status keep(loop *l) {
    status st = optimizer_swap_average(&l->opt);
    if (st != OK) return st;
    st = l->s->keep(l->s->ctx, l->step);
    status back = optimizer_swap_average(&l->opt);
    return st == OK ? back : st;
}

/* Sheet and model, with the averaged weights. */
static status show(loop *l, bool model) {
    status st = OK;
    char name[64], path[1200];
    record_value v[RECORD_MAX_VALUES];
    int n = 0;
    snprintf(name, sizeof name, "sheet-%07lld.png", (long long)l->step);
    TRY(optimizer_swap_average(&l->opt));
    if (l->s->sheet) st = l->s->sheet(l->s->ctx, path_in(l, name, path), v, &n);
    if (st == OK && model) st = l->s->save(l->s->ctx, l->p->folder);
    status back = optimizer_swap_average(&l->opt);
    if (st == OK) st = back;
    if (st == OK && n) st = train_log_add(l->log, l->step, v, n);
    l->last_sheet = os_seconds();
out:
    return st;
}

static status one_step(loop *l) {
    status st = OK;
    const train_params *p = l->p;
    double seen[TRAIN_MAX_SHOWN] = {0};
    float norm = 0, scale = l->scaler.scale / (float)p->accumulate;
    bool skipped = false;
    optimizer_params adam = p->adam;
    for (int k = 0; k < p->accumulate; k++) {
        uint64_t first = l->sample + (uint64_t)k * (uint64_t)p->batch;
        plan *step = l->s->which ? l->s->which(l->s->ctx, first) : l->s->step;
        TRY(l->s->feed(l->s->ctx, l->step, first));
        TRY(plan_write(step, "scale", &scale));
        TRY(plan_run(step, p->cancelled, p->ctx));
        for (int i = 0; i < l->s->n_show; i++) {
            float v;
            TRY(plan_read(step, l->s->show[i], &v));
            seen[i] += (double)v;
        }
    }
    adam.lr = (float)lr_at(&p->lr, l->step);
    adam.loss_scale = l->scaler.scale;
    TRY(optimizer_step(&l->opt, &adam, &norm, &skipped));
    l->last_value = seen[0] / p->accumulate;
    /* f16 may skip steps until its scale fits; all others compute NaN again and again */
    if (!isfinite(l->last_value) || (skipped && l->scaler.scale <= 1))
        TRY(fail(
            E_FORMAT,
            "step %lld: the loss or its gradients are not finite; what was saved before stays. "
            "Try a smaller --lr, or --precision f32",
            (long long)l->step + 1));
    loss_scaler_update(&l->scaler, skipped);
    if (l->s->after) TRY(l->s->after(l->s->ctx));
    for (int i = 0; i < l->s->n_show; i++) l->sum[i] += seen[i];
    l->norm_sum += skipped ? 0 : (double)norm;
    l->skipped += skipped;
    l->summed++;
    l->step++;
    l->sample += (uint64_t)(p->batch * p->accumulate);
out:
    return st;
}

static bool due(double minutes, double last) {
    return minutes > 0 && os_seconds() - last >= 60 * minutes;
}

static status loop_steps(loop *l) {
    status st = OK;
    const train_params *p = l->p;
    if (p->probe_every && l->step == 0) TRY(probe(l));
    while (l->step < p->lr.steps) {
        char note[96];
        TRY(one_step(l));
        if (l->step % p->log_every == 0 || l->step == p->lr.steps) TRY(write_log(l, NULL, 0));
        if (l->rate > 0)
            snprintf(note, sizeof note, "loss %.4f  %.1f samples/s", l->last_value, l->rate);
        else
            snprintf(note, sizeof note, "loss %.4f", l->last_value);
        progress_step(&l->bar, l->step, note);
        if (p->probe_every && l->step % p->probe_every == 0) TRY(probe(l));
        if (p->keep_every && l->step % p->keep_every == 0) TRY(keep(l));
        if (due(p->save_minutes, l->last_save)) TRY(save_state(l));
        bool by_step = p->sheet_every > 0 && l->step % p->sheet_every == 0 && l->step < p->lr.steps;
        if (by_step || due(p->sheet_minutes, l->last_sheet)) TRY(show(l, true));
    }
out:
    return st;
}

static status loop_open(loop *l) {
    status st = OK;
    char path[1200];
    loss_scaler_init(&l->scaler, l->s->type);
    TRY(os_mkdir_p(l->p->folder));
    TRY(optimizer_create(l->s->part, l->s->n_parts, l->p->adam.kind, true, &l->opt));
    TRY(resume(l));
    TRY(train_log_open(path_in(l, "train.log", path), l->step, &l->log));
    l->last_line = l->last_save = l->last_sheet = os_seconds();
    l->last_step = l->step;
out:
    return st;
}

status train_run(const train_params *p, const train_stage *s) {
    status st = OK;
    loop l = {.p = p, .s = s};
    TRY(loop_open(&l));
    progress_begin(&l.bar, s->what, p->lr.steps);
    l.bar.first = l.bar.done = l.step;
    st = loop_steps(&l);
    progress_end(&l.bar);
    if (st == E_CANCELLED) {
        status saved = save_state(&l);
        TRY(saved == OK
                ? fail(E_CANCELLED, "stopped after step %lld; the same command goes on from there",
                       (long long)l.step)
                : saved);
    }
    TRY(st);
    TRY(save_state(&l));
    TRY(show(&l, true));
out:
    train_log_close(l.log);
    optimizer_destroy(&l.opt);
    return st;
}
