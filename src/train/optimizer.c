/* optimizer.c: AdamW over flats, as one more plan; and the end of a backward pass, where gradients
 * are added to the flats. Source: Loshchilov & Hutter 2019; torch.optim.AdamW; diffusers EMAModel.
 * SPDX-License-Identifier: MIT */
#include "train/adamw8bit.h"
#include "train/prodigy.h"
#include <assert.h>
#include <stdio.h>

void train_backward(graph *g, tensor *loss, tensor *seed, params *const *ps, int n,
                    bool checkpoint) {
    int count = 0, total = 0;
    for (int k = 0; k < n; k++) total += ps[k]->n;
    tensor **want = graph_alloc(g, sizeof *want * (size_t)(total + 1)),
           **grad = graph_alloc(g, sizeof *grad * (size_t)(total + 1));
    param **of = graph_alloc(g, sizeof *of * (size_t)(total + 1));
    if (!want || !grad || !of) return;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < ps[k]->n; i++)
            if (ps[k]->p[i].trainable) {
                of[count] = &ps[k]->p[i];
                want[count++] = params_tensor(ps[k], g, ps[k]->p[i].name, HERE);
            }
    graph_backward(g, loss, seed, want, count, grad, checkpoint);
    for (int i = 0; i < count; i++)
        if (grad[i]) op_accumulate(g, graph_array(g, of[i]->grad), grad[i]);
}

static status record_update(optimizer *o) {
    graph *g = graph_create(o->part[0]->dev);
    if (!g) return graph_status(g);
    tensor *limits = graph_array(g, o->limits), *inf = graph_array(g, o->found_inf), *parts = NULL;
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++) {
            tensor *norm =
                op_square(g, op_norm2(g, graph_array(g, o->part[k]->flat[i].grad), DIMS_ALL));
            parts = parts ? op_concat(g, 0, parts, norm) : norm;
        }
    tensor *factor = op_clip_factor(g, parts, limits, inf);
    graph_output(g, factor, "factor");
    if (o->kind == OPTIMIZER_ADAMW8BIT) adamw8bit_record(o, g, factor, inf);
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++) {
            const param_flat *f = &o->part[k]->flat[i];
            const struct optimizer_flat *of = &o->flat[k][i];
            tensor *value = graph_array(g, f->value), *grad = graph_array(g, f->grad),
                   *copy = f->copy ? graph_array(g, f->copy) : NULL;
            if (of->m)
                op_adamw(g, value, grad, graph_array(g, of->m), graph_array(g, of->v),
                         graph_array(g, o->hyper[k][f->group]), factor, inf, copy);
            op_store(g, grad, op_zeros(g, DT_F32, SHAPE(f->count)));
            if (o->averaging)
                op_ema(g, graph_array(g, of->average), value, graph_array(g, o->decay));
        }
    return graph_compile(g, &(plan_params){.label = "adamw"}, &o->update);
}

static status copy_values(array *to, array *from) {
    status st = OK;
    float *v = mem_alloc(sizeof *v * (size_t)array_count(from));
    if (!v)
        TRY(fail(E_HOST_MEMORY, "no host memory for %lld weights", (long long)array_count(from)));
    TRY(array_read(from, v));
    TRY(array_write(to, v));
out:
    mem_free(v);
    return st;
}

static status create_flats(optimizer *o, int k) {
    status st = OK;
    params *ps = o->part[k];
    if (!ps->n_flat) TRY(fail(E_USAGE, "nothing to train: no parameter is trainable"));
    if (!(o->flat[k] = mem_zalloc(sizeof *o->flat[k] * (size_t)ps->n_flat)))
        TRY(fail(E_HOST_MEMORY, "no host memory for the optimiser"));
    for (int i = 0; i < ps->n_flat; i++) {
        struct optimizer_flat *f = &o->flat[k][i];
        shape s = SHAPE(ps->flat[i].count);
        if (o->kind != OPTIMIZER_ADAMW8BIT) {
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, s, "adam m", &f->m));
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, s, "adam v", &f->v));
        }
        if (o->kind == OPTIMIZER_PRODIGY) {
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, s, "prodigy s", &f->s));
            TRY(array_create(ps->dev, REGION_STATE, DT_F32, s, "prodigy start", &f->start));
            TRY(copy_values(f->start, ps->flat[i].value));
        }
        if (!o->averaging) continue;
        TRY(array_create(ps->dev, REGION_STATE, DT_F32, s, "average", &f->average));
        TRY(copy_values(f->average, ps->flat[i].value));
    }
    for (int i = 0; i < GROUP_COUNT; i++)
        TRY(array_create(ps->dev, REGION_STAGING, DT_F32, SHAPE(6), "hyper", &o->hyper[k][i]));
out:
    return st;
}

const char *optimizer_name(optimizer_kind k) {
    static const char *const names[OPTIMIZER_KIND_COUNT] = {"adamw", "adamw8bit",
                                                             "prodigy"};
    return names[k];
}

uint64_t optimizer_bytes(params *const *part, int n_parts, optimizer_kind kind, bool average) {
    uint64_t bytes = 0;
    for (int k = 0; k < n_parts; k++) {
        uint64_t n = (uint64_t)params_count(part[k], true), each = sizeof(float);
        if (average) bytes += each * n;
        switch (kind) {
        case OPTIMIZER_ADAMW:
            bytes += 2 * each * n;
            break;
        case OPTIMIZER_ADAMW8BIT:
            bytes += adamw8bit_bytes(part[k]);
            break;
        case OPTIMIZER_PRODIGY:
            bytes += 4 * each * n;
            break;
        case OPTIMIZER_KIND_COUNT:
            break;
        }
    }
    return bytes;
}

status optimizer_create(params *const *part, int n_parts, optimizer_kind kind, bool average,
                        optimizer *o) {
    status st = OK;
    *o = (optimizer){.kind = kind, .averaging = average};
    if (n_parts < 1 || n_parts > OPTIMIZER_MAX_PARTS)
        return fail(E_USAGE, "%d networks to train: expected 1 to %d", n_parts,
                    OPTIMIZER_MAX_PARTS);
    device *dev = part[0]->dev;
    for (int k = 0; k < n_parts; k++) {
        o->part[o->n_parts++] = part[k];
        TRY(create_flats(o, k));
        if (kind == OPTIMIZER_ADAMW8BIT) TRY(adamw8bit_create(o, k));
    }
    TRY(array_create(dev, REGION_STAGING, DT_F32, SHAPE(2), "clip limits", &o->limits));
    TRY(array_create(dev, REGION_STAGING, DT_F32, SHAPE(1), "average's decay", &o->decay));
    TRY(array_create(dev, REGION_STATE, DT_U32, SHAPE(1), "found_inf", &o->found_inf));
    TRY(o->kind == OPTIMIZER_PRODIGY ? prodigy_create(o) : record_update(o));
out:
    if (st != OK) optimizer_destroy(o);
    return st;
}

void optimizer_destroy(optimizer *o) {
    plan_destroy(o->update);
    for (int i = 0; i < PRODIGY_PLANS; i++) plan_destroy(o->prodigy[i]);
    for (int k = 0; k < o->n_parts; k++) {
        for (int i = 0; o->flat[k] && i < o->part[k]->n_flat; i++) {
            array_destroy(o->flat[k][i].m);
            array_destroy(o->flat[k][i].v);
            array_destroy(o->flat[k][i].average);
            array_destroy(o->flat[k][i].s);
            array_destroy(o->flat[k][i].start);
        }
        mem_free(o->flat[k]);
        adamw8bit_destroy(o, k);
        for (int i = 0; i < GROUP_COUNT; i++) array_destroy(o->hyper[k][i]);
    }
    array_destroy(o->limits);
    array_destroy(o->decay);
    array_destroy(o->found_inf);
    *o = (optimizer){0};
}

static status adamw_step(optimizer *o, const optimizer_params *p, float factor[2], bool *inf) {
    status st = OK;
    uint32_t found = 0;
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < GROUP_COUNT; i++) {
            float lr = p->lr * (p->lr_factor[k] > 0 ? p->lr_factor[k] : 1.0f),
                  wd = i == GROUP_DECAY ? p->weight_decay : 0.0f;
            TRY(array_write(o->hyper[k][i],
                            (float[6]){lr, p->beta1, p->beta2, p->eps, wd, (float)(o->step + 1)}));
        }
    TRY(plan_run(o->update, NULL, NULL));
    TRY(array_read(o->found_inf, &found));
    TRY(plan_read(o->update, "factor", factor));
    *inf = found != 0;
out:
    return st;
}

status optimizer_step(optimizer *o, const optimizer_params *p, float *norm, bool *skipped) {
    status st = OK;
    assert(!o->swapped);
    float factor[2] = {0}, limits[2] = {p->max_norm, p->loss_scale},
          decay = (float)(1 + o->step) / (float)(10 + o->step);
    uint32_t none = 0;
    bool inf = false;
    decay = MIN(decay, p->average_decay);
    TRY(array_write(o->limits, limits));
    TRY(array_write(o->decay, &decay));
    TRY(array_write(o->found_inf, &none));
    TRY((o->kind == OPTIMIZER_PRODIGY ? prodigy_step : adamw_step)(o, p, factor, &inf));
    if (!inf) o->step++;
    if (norm) *norm = factor[1];
    if (skipped) *skipped = inf;
out:
    return st;
}

static status swap_flat(param_flat *f, array *average) {
    status st = OK;
    size_t bytes = sizeof(float) * (size_t)f->count;
    float *value = mem_alloc(bytes), *mean = mem_alloc(bytes);
    if (!value || !mean)
        TRY(fail(E_HOST_MEMORY, "no host memory for %lld weights", (long long)f->count));
    TRY(array_read(f->value, value));
    TRY(array_read(average, mean));
    TRY(array_write(f->value, mean));
    if (f->copy) TRY(array_write_f32(f->copy, mean));
    TRY(array_write(average, value));
out:
    mem_free(value);
    mem_free(mean);
    return st;
}

status optimizer_swap_average(optimizer *o) {
    status st = OK;
    if (!o->averaging) return fail(E_USAGE, "this run keeps no moving average of its weights");
    for (int k = 0; k < o->n_parts; k++)
        for (int i = 0; i < o->part[k]->n_flat; i++)
            TRY(swap_flat(&o->part[k]->flat[i], o->flat[k][i].average));
    o->swapped = !o->swapped;
out:
    return st;
}
