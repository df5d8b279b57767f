/* record.c: graphs and nodes as they are recorded. Recording never returns an error: the first bad op
 * marks the graph with status, text and the file:line of the model code, later ops return a poison
 * tensor, and graph_compile reports. Everything lives in the graph's arena; nobody frees a tensor.
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

int64_t shape_count(const shape *s) {
    int64_t n = 1;
    for (int i = 0; i < s->n; i++) n *= s->d[i];
    return n;
}

bool shape_equal(const shape *a, const shape *b) {
    if (a->n != b->n) return false;
    for (int i = 0; i < a->n; i++)
        if (a->d[i] != b->d[i]) return false;
    return true;
}

const char *shape_text(const shape *s, char buf[96]) {
    size_t at = (size_t)snprintf(buf, 96, "[");
    for (int i = 0; i < s->n && at < 80; i++)
        at += (size_t)snprintf(buf + at, 96 - at, "%s%lld", i ? ", " : "", (long long)s->d[i]);
    snprintf(buf + at, 96 - at, "]");
    return buf;
}

void graph_fail(graph *g, const char *at, status st, const char *fmt, ...) {
    if (!g || g->st != OK) return;
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *slash = strrchr(at, '/');
    g->st = st;
    snprintf(g->error, sizeof g->error, "%s: %s", slash ? slash + 1 : at, text);
}

status graph_status(const graph *g) {
    if (!g) return fail(E_HOST_MEMORY, "no memory to start a graph");
    return g->st == OK ? OK : fail(g->st, "%s", g->error);
}

void *graph_alloc(graph *g, size_t bytes) {
    void *p = arena_alloc(&g->a, bytes);
    if (!p) graph_fail(g, HERE, E_HOST_MEMORY, "no host memory for %zu bytes of graph", bytes);
    return p;
}

bool graph_grow(graph *g, void **p, int *cap, int need, size_t elem) {
    if (need <= *cap) return true;
    int to = MAX(need, *cap ? *cap * 2 : 64);
    void *bigger = mem_realloc(*p, (size_t)*cap * elem, (size_t)to * elem);
    if (!bigger) {
        graph_fail(g, HERE, E_HOST_MEMORY, "no host memory for a graph of %d entries", to);
        return false;
    }
    *p = bigger;
    *cap = to;
    return true;
}

tensor *tensor_new(graph *g) {
    tensor *t = arena_alloc(&g->a, sizeof *t);
    if (!t || !graph_grow(g, (void **)&g->tensor, &g->cap_tensors, g->n_tensors + 1, sizeof *g->tensor)) {
        graph_fail(g, HERE, E_HOST_MEMORY, "no host memory for a tensor");
        return NULL;
    }
    t->g = g;
    t->id = g->n_tensors;
    g->tensor[g->n_tensors++] = t;
    return t;
}

graph *graph_create(device *d) {
    graph *g = mem_zalloc(sizeof *g);
    if (!g) return NULL;
    g->dev = d;
    g->id = ++d->graphs_made;
    g->segment = -1;
    g->poison = arena_alloc(&g->a, sizeof *g->poison);
    if (!g->poison) {
        graph_destroy(g);
        return NULL;
    }
    *g->poison = (tensor){.g = g, .id = -1, .poison = true, .s = {1, {1}}, .name = "poison"};
    return g;
}

void graph_destroy(graph *g) {
    if (!g) return;
    for (int i = 0; i < g->n_nodes; i++)
        if (g->node[i]->prepared && g->node[i]->unprepare) g->node[i]->unprepare(g->node[i]->prepared);
    for (int i = 0; i < g->n_own; i++) array_destroy(g->own[i]);
    mem_free(g->own);
    mem_free(g->use);
    mem_free(g->node);
    mem_free(g->tensor);
    mem_free(g->wants);
    arena_fini(&g->a);
    mem_free(g);
}

device *graph_device(const graph *g) { return g->dev; }

static bool shape_sane(graph *g, const char *name, const shape *s) {
    double count = 1;
    for (int i = 0; i < s->n; i++) {
        count *= (double)s->d[i];
        if (s->d[i] < 1) {
            char b[96];
            graph_fail(g, name, E_SHAPE, "shape %s has a dimension below 1", shape_text(s, b));
            return false;
        }
    }
    if (s->n < 1 || s->n > MAX_DIMS || count > 4e11) {
        graph_fail(g, name, E_SHAPE, "a tensor of %d dimensions and %.3g elements is out of range", s->n, count);
        return false;
    }
    return true;
}

tensor *graph_input(graph *g, const char *name, dtype t, shape s) {
    if (g->st != OK || !shape_sane(g, name, &s)) return g->poison;
    tensor *x = tensor_new(g);
    if (!x) return g->poison;
    x->name = arena_printf(&g->a, "%s", name);
    x->dtype = t;
    x->s = s;
    x->is_input = true;
    return x;
}

tensor *graph_array(graph *g, array *a) {
    if (g->st != OK) return g->poison;
    if (!a) {
        graph_fail(g, HERE, E_USAGE, "a weight that the model needs is missing");
        return g->poison;
    }
    if (a->last_graph_id == g->id && a->last_graph == g) return a->last_tensor;
    tensor *x = tensor_new(g);
    if (!x) return g->poison;
    x->name = a->name;
    x->dtype = a->dtype;
    x->s = a->s;
    x->array = a;
    a->last_graph = g;
    a->last_graph_id = g->id;
    a->last_tensor = x;
    return x;
}

void graph_output(graph *g, tensor *t, const char *name) {
    if (g->st != OK || t->poison) return;
    t->is_output = true;
    t->name = arena_printf(&g->a, "%s", name);
}

void graph_segment(graph *g, const char *name) { g->segment = name ? g->n_segments++ : -1; }

tensor *tensor_root(tensor *t) {
    while (t->base) t = t->base;
    return t;
}

tensor *tensor_out(tensor *t, int k) {
    if (t->poison) return t;
    assert(t->by && k < t->by->n_out);
    return t->by->out[k];
}

static void describe(const node *n, char *buf, size_t cap) {
    size_t at = 0;
    buf[0] = 0;
    for (int i = 0; i < n->n_in && at + 100 < cap; i++) {
        char b[96];
        at += (size_t)snprintf(buf + at, cap - at, "%s%s", i ? " " : "", n->in[i] ? shape_text(&n->in[i]->s, b) : "-");
    }
}

static node *node_new(graph *g, const op_info *op, const char *at, const void *attrs, int n_in) {
    node *n = graph_alloc(g, sizeof *n);
    void *copy = op->attrs_size ? graph_alloc(g, op->attrs_size) : NULL;
    if (!n || (op->attrs_size && !copy)) return NULL;
    if (!graph_grow(g, (void **)&g->node, &g->cap_nodes, g->n_nodes + 1, sizeof *g->node)) return NULL;
    if (copy && attrs) memcpy(copy, attrs, op->attrs_size);
    *n = (node){.op = op, .g = g, .at = at, .n_in = n_in, .n_out = op->n_out, .attrs = copy,
                .id = g->n_nodes, .segment = g->segment};
    for (int k = 0; k < op->n_out; k++) {
        n->out[k] = tensor_new(g);
        if (!n->out[k]) return NULL;
        n->out[k]->by = n;
        n->out[k]->out_index = k;
        n->out[k]->name = op->name;
    }
    return n;
}

tensor *op_record(graph *g, const op_info *op, const char *at, const void *attrs, int n_in, tensor *const *in) {
    if (g->st != OK) return g->poison;
    for (int i = 0; i < n_in; i++)
        if (in[i] && in[i]->poison) return g->poison;
    node *n = n_in <= MAX_IN ? node_new(g, op, at, attrs, n_in) : NULL;
    if (!n) {
        graph_fail(g, at, E_HOST_MEMORY, "%s: no host memory to record (%d inputs)", op->name, n_in);
        return g->poison;
    }
    memcpy(n->in, in, sizeof *in * (size_t)n_in);
    status st = op->infer ? op->infer(g, n) : OK;
    if (st != OK) {
        char shapes[400];
        describe(n, shapes, sizeof shapes);
        graph_fail(g, at, st, "%s (%s %s)", error_message(), op->name, shapes);
        return g->poison;
    }
    for (int k = 0; k < n->n_out; k++)
        if (!shape_sane(g, at, &n->out[k]->s)) return g->poison;
    if (op->view) n->out[0]->base = n->in[0];
    g->node[g->n_nodes++] = n;
    return n->n_out ? n->out[0] : g->poison;
}
