/* run.c: graph_compile and the two executors. Compile drops dead nodes, prepares ops, places memory and,
 * on Vulkan, records every dispatch once; plan_run replays. Under IMAGO_CHECK or IMAGO_DUMP on Vulkan
 * each node has its own command list, so that it can be looked at alone; IMAGO_PROFILE puts the GPU's time stamps between them.
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

void prep_scratch(node *n, size_t bytes) { n->scratch_bytes = MAX(n->scratch_bytes, bytes); }

static double node_work(const node *n) {
    if (n->op->work) return n->op->work(n);
    double w = 0;
    for (int i = 0; i < n->n_in; i++) w += n->in[i] ? (double)tensor_count(n->in[i]) : 0;
    for (int i = 0; i < n->n_out; i++) w += (double)tensor_count(n->out[i]);
    return w;
}

/* Live nodes: those that update memory in place or lead to an output or to such a node. */
static status order_live(plan *p) {
    graph *g = p->g;
    bool *used = arena_new(&g->a, bool, g->n_tensors + 1);
    p->order = arena_new(&g->a, node *, g->n_nodes + 1);
    p->node_ms = arena_new(&g->a, double, g->n_nodes + 1);
    if (!used || !p->order || !p->node_ms) return fail(E_HOST_MEMORY, "no host memory to plan %d nodes", g->n_nodes);
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        node *n = g->node[i];
        bool live = n->op->writes != 0;
        for (int k = 0; k < n->n_out; k++) live |= n->out[k]->is_output || used[n->out[k]->id];
        n->dead = !live;
        for (int k = 0; live && k < n->n_in; k++)
            if (n->in[k]) used[n->in[k]->id] = true;
    }
    for (int i = 0; i < g->n_nodes; i++)
        if (!g->node[i]->dead && !g->node[i]->op->view) p->order[p->n_order++] = g->node[i];
    return OK;
}

static status make_inputs(plan *p) {
    status st = OK;
    graph *g = p->g;
    for (int i = 0; i < g->n_tensors; i++) {
        tensor *t = g->tensor[i];
        if (!t->is_input) continue;
        if (!graph_grow(g, (void **)&g->own, &g->cap_own, g->n_own + 1, sizeof *g->own)) TRY(graph_status(g));
        TRY(array_create(p->dev, REGION_STAGING, t->dtype, t->s, t->name, &t->array));
        g->own[g->n_own++] = t->array;
    }
out:
    return st;
}

static status prepare_nodes(plan *p) {
    status st = OK;
    graph *g = p->g;
    prep pr = {p->dev, p->dev->gpu, p->dev->host};
    for (int i = 0; i < p->n_order; i++) {
        node *n = p->order[i];
        if (n->op->prepare && !p->dev->ref) TRY(n->op->prepare(&pr, n));
        n->work = node_work(n);
        p->report.work += n->work;
        if (!n->scratch_bytes) continue;
        if (!(n->scratch = tensor_new(g))) TRY(graph_status(g));
        n->scratch->name = "scratch";
        n->scratch->dtype = DT_U32;
        n->scratch->s = SHAPE((int64_t)div_up((int64_t)n->scratch_bytes, 4));
    }
out:
    return st;
}

/* Deferred weights that a node reads as they are get memory and values now. */
static status hold_weights(plan *p) {
    status st = OK;
    graph *g = p->g;
    for (int i = 0; i < p->n_order; i++) {
        node *n = p->order[i];
        for (int k = 0; k < n->n_in; k++) {
            array *a = n->in[k] ? tensor_root(n->in[k])->array : NULL;
            bool packed = false;
            if (!a || a->region != REGION_WEIGHTS) continue;
            for (int u = g->n_use; u-- > 0 && !packed;) packed = g->use[u].n == n && g->use[u].in == k;
            if (!packed || p->dev->checks.ref) TRY(array_hold(a));
        }
    }
out:
    return st;
}

static status encode_node(gpu_cmd *c, node *n) {
    if (!n->op->encode) return fail(E_UNSUPPORTED, "%s (%s) has no Vulkan implementation", n->op->name, n->at);
    status st = n->op->encode(c, n);
    if (st != OK) error_trace(st, n->at, n->op->name);
    return st;
}

static status encode_all(plan *p) {
    status st = OK;
    if (!p->dev->gpu) return OK;
    if (checks_need_nodes(p->dev)) {
        p->node_cmd = arena_new(&p->g->a, gpu_cmd *, p->n_order + 1);
        if (!p->node_cmd) return fail(E_HOST_MEMORY, "no host memory for command lists");
        for (int i = 0; i < p->n_order; i++) {
            TRY(gpu_cmd_create(p->dev->gpu, &p->node_cmd[i]));
            TRY(encode_node(p->node_cmd[i], p->order[i]));
            TRY(gpu_cmd_end(p->node_cmd[i]));
        }
        p->report.n_submits = p->n_order;
        return OK;
    }
    TRY(gpu_cmd_create(p->dev->gpu, &p->cmd));
    for (int i = 0; i < p->n_order; i++) {
        if (profile_by_stamps(p->dev)) TRY(gpu_cmd_mark(p->cmd, p->order[i]->op->name, (uint32_t)i));
        TRY(encode_node(p->cmd, p->order[i]));
    }
    TRY(gpu_cmd_end(p->cmd));
    p->report.n_submits = gpu_cmd_count(p->cmd);
out:
    return st;
}

status graph_compile(graph *g, const plan_params *pp, plan **out) {
    status st = OK;
    *out = NULL;
    if (!g) return graph_status(g);
    plan *p = mem_zalloc(sizeof *p);
    if (!p) {
        graph_destroy(g);
        return fail(E_HOST_MEMORY, "no host memory for a plan");
    }
    p->g = g;
    p->dev = g->dev;
    p->guarded = g->dev->checks.guard;
    if (pp && pp->label) snprintf(p->label, sizeof p->label, "%s", pp->label);
    TRY(graph_status(g));
    TRY(order_live(p));
    TRY(make_inputs(p));
    TRY(prepare_nodes(p));
    TRY(hold_weights(p));
    TRY(plan_place(p, pp && pp->no_alias));
    TRY(encode_all(p));
    p->report.n_nodes = p->n_order;
    p->report.persistent_bytes = p->dev->used_bytes;
    log_debug("%s: %d nodes, %.3g flop, activations %.1f MB, %s", p->label[0] ? p->label : "plan", p->n_order,
              p->report.work, (double)p->report.activation_bytes / 1e6, p->report.peak);
    *out = p;
out:
    if (st != OK) plan_destroy(p);
    return st;
}

void plan_destroy(plan *p) {
    if (!p) return;
    gpu_cmd_destroy(p->cmd);
    for (int i = 0; p->node_cmd && i < p->n_order; i++) gpu_cmd_destroy(p->node_cmd[i]);
    graph_destroy(p->g);
    mem_free(p);
}

const plan_report *plan_get_report(const plan *p) { return &p->report; }

static tensor *find(plan *p, const char *name, bool input) {
    for (int i = 0; i < p->g->n_tensors; i++) {
        tensor *t = p->g->tensor[i];
        if ((input ? t->is_input : t->is_output) && strcmp(t->name, name) == 0) return t;
    }
    return NULL;
}

status plan_write(plan *p, const char *input, const void *src) {
    tensor *t = find(p, input, true);
    return t ? array_write(t->array, src) : fail(E_USAGE, "the plan has no input '%s'", input);
}

status tensor_download(const device *d, const tensor *t, void *dst) {
    if (d->gpu) return gpu_download(d->gpu, t->span, dst, tensor_bytes(t));
    memcpy(dst, t->data, tensor_bytes(t));
    return OK;
}

status plan_read(plan *p, const char *output, void *dst) {
    tensor *t = find(p, output, false);
    return t ? tensor_download(p->dev, t, dst) : fail(E_USAGE, "the plan has no output '%s'", output);
}

status plan_read_f32(plan *p, const char *output, float *dst) {
    tensor *t = find(p, output, false);
    if (!t) return fail(E_USAGE, "the plan has no output '%s'", output);
    void *tmp = mem_alloc(tensor_bytes(t));
    if (!tmp) return fail(E_HOST_MEMORY, "no host memory to read '%s'", output);
    status st = tensor_download(p->dev, t, tmp);
    for (int64_t i = 0; st == OK && i < tensor_count(t); i++) dst[i] = (float)dtype_load(tmp, t->dtype, i);
    mem_free(tmp);
    return st;
}

static status run_cpu(plan *p, bool (*cancelled)(void *), void *ctx) {
    device *d = p->dev;
    for (int i = 0; i < p->n_order; i++) {
        node *n = p->order[i];
        if (cancelled && cancelled(ctx)) return fail(E_CANCELLED, "cancelled");
        double start = d->checks.profile ? os_seconds() : 0;
        if (n->op->host && !d->ref) n->op->host(d->host, n);
        else n->op->ref(n);
        if (d->checks.profile) p->node_ms[i] = (os_seconds() - start) * 1e3;
        if (!checks_need_nodes(d)) continue;
        status st = check_node(p, n);
        if (st != OK) return st;
    }
    if (!host_failed(d->host)) return OK;
    return fail(E_HOST_MEMORY, "a kernel of oneDNN failed in %s, most likely for want of memory: free some, or use a smaller batch",
                p->label[0] ? p->label : "a plan");
}

static status run_vulkan_nodes(plan *p, bool (*cancelled)(void *), void *ctx) {
    status st = OK;
    for (int i = 0; i < p->n_order; i++) {
        double start = os_seconds();
        TRY(gpu_cmd_run(p->node_cmd[i], cancelled, ctx));
        p->node_ms[i] = (os_seconds() - start) * 1e3;
        TRY(check_node(p, p->order[i]));
    }
out:
    return st;
}

status plan_run(plan *p, bool (*cancelled)(void *), void *ctx) {
    status st = OK;
    for (int i = 0; i < p->g->n_use; i++) {
        const pack_use *u = &p->g->use[i];
        if (u->pack->version != tensor_root(u->n->in[u->in])->array->version) TRY(pack_fill(p->dev, u));
    }
    if (p->guarded) TRY(check_guards_fill(p));
    if (p->dev->host) TRY(run_cpu(p, cancelled, ctx));
    else if (p->node_cmd) TRY(run_vulkan_nodes(p, cancelled, ctx));
    else TRY(gpu_cmd_run(p->cmd, cancelled, ctx));
    if (p->cmd && profile_by_stamps(p->dev)) TRY(gpu_cmd_times(p->cmd, p->n_order, p->node_ms));
    p->profiled = p->dev->checks.profile;
    if (p->guarded) TRY(check_guards(p));
    if (p->profiled) plan_profile_print(p);
out:
    return st;
}
