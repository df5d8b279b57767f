/* optimizer.c: AdamW over flats, as one more plan; and the end of a backward pass, where gradients are
 * added to the flats. Source: Loshchilov & Hutter 2019; torch.optim.AdamW.
 * SPDX-License-Identifier: MIT */
#include "train/train.h"
#include <stdio.h>

void train_backward(graph *g, tensor *loss, tensor *seed, params *const *ps, int n, bool checkpoint) {
    int count = 0, total = 0;
    for (int k = 0; k < n; k++) total += ps[k]->n;
    tensor **want = graph_alloc(g, sizeof *want * (size_t)(total + 1)), **grad = graph_alloc(g, sizeof *grad * (size_t)(total + 1));
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
    params *ps = o->ps;
    graph *g = graph_create(ps->dev);
    if (!g) return graph_status(g);
    tensor *limits = graph_array(g, o->limits), *inf = graph_array(g, o->found_inf), *parts = NULL;
    for (int i = 0; i < ps->n_flat; i++) {
        tensor *norm = op_square(g, op_norm2(g, graph_array(g, ps->flat[i].grad), DIMS_ALL));
        parts = parts ? op_concat(g, 0, parts, norm) : norm;
    }
    tensor *factor = op_clip_factor(g, parts, limits, inf);
    graph_output(g, factor, "factor");
    for (int i = 0; i < ps->n_flat; i++) {
        param_flat *f = &ps->flat[i];
        tensor *grad = graph_array(g, f->grad), *copy = f->copy ? graph_array(g, f->copy) : NULL;
        op_adamw(g, graph_array(g, f->value), grad, graph_array(g, o->m[i]), graph_array(g, o->v[i]),
                 graph_array(g, o->hyper[f->group]), factor, inf, copy);
        op_store(g, grad, op_zeros(g, DT_F32, SHAPE(f->count)));
    }
    return graph_compile(g, &(plan_params){.label = "adamw"}, &o->update);
}

status optimizer_create(params *ps, optimizer *o) {
    status st = OK;
    *o = (optimizer){.ps = ps};
    if (!ps->n_flat) return fail(E_USAGE, "nothing to train: no parameter is trainable");
    o->m = mem_zalloc(sizeof *o->m * (size_t)ps->n_flat);
    o->v = mem_zalloc(sizeof *o->v * (size_t)ps->n_flat);
    if (!o->m || !o->v) TRY(fail(E_HOST_MEMORY, "no host memory for the optimiser"));
    for (int i = 0; i < ps->n_flat; i++) {
        TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(ps->flat[i].count), "adam m", &o->m[i]));
        TRY(array_create(ps->dev, REGION_STATE, DT_F32, SHAPE(ps->flat[i].count), "adam v", &o->v[i]));
    }
    for (int i = 0; i < GROUP_COUNT; i++) TRY(array_create(ps->dev, REGION_STAGING, DT_F32, SHAPE(6), "hyper", &o->hyper[i]));
    TRY(array_create(ps->dev, REGION_STAGING, DT_F32, SHAPE(2), "clip limits", &o->limits));
    TRY(array_create(ps->dev, REGION_STATE, DT_U32, SHAPE(1), "found_inf", &o->found_inf));
    TRY(record_update(o));
out:
    if (st != OK) optimizer_destroy(o);
    return st;
}

void optimizer_destroy(optimizer *o) {
    plan_destroy(o->update);
    for (int i = 0; o->ps && i < o->ps->n_flat; i++) {
        if (o->m) array_destroy(o->m[i]);
        if (o->v) array_destroy(o->v[i]);
    }
    for (int i = 0; i < GROUP_COUNT; i++) array_destroy(o->hyper[i]);
    array_destroy(o->limits);
    array_destroy(o->found_inf);
    mem_free(o->m);
    mem_free(o->v);
    *o = (optimizer){0};
}

status optimizer_step(optimizer *o, const optimizer_params *p, float *norm, bool *skipped) {
    status st = OK;
    float factor[2] = {0}, limits[2] = {p->max_norm, p->loss_scale};
    uint32_t inf = 0;
    TRY(array_write(o->limits, limits));
    TRY(array_write(o->found_inf, &inf));
    for (int i = 0; i < GROUP_COUNT; i++) {
        float h[6] = {p->lr, p->beta1, p->beta2, p->eps, i == GROUP_DECAY ? p->weight_decay : 0.0f, (float)(o->step + 1)};
        TRY(array_write(o->hyper[i], h));
    }
    TRY(plan_run(o->update, NULL, NULL));
    TRY(array_read(o->found_inf, &inf));
    TRY(plan_read(o->update, "factor", factor));
    if (!inf) o->step++;
    if (norm) *norm = factor[1];
    if (skipped) *skipped = inf != 0;
out:
    return st;
}
