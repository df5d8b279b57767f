/* backward.c: gradients as recorded nodes. One reverse walk over the nodes that lie between the wanted
 * tensors and the loss; every op's backward records ordinary nodes, so memory planning, barriers and
 * checkpointing know one kind of thing.
 * Checkpointing: when the walk enters a segment, the segment's forward nodes are recorded again, reading
 * the segment's inputs, and gradients use those clones; what the clones make superfluous is dropped as
 * dead at compile, so only segment inputs stay alive between forward and backward.
 * Source: Chen et al. 2016 (recomputation).
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"

typedef struct walk {
    graph *g; tensor **grad; tensor **clone; node **node_clone; /* by id of the forward part */
    int n_nodes, n_tensors; bool checkpoint; bool *cloned;      /* by segment */
} walk;

bool node_wants(const node *n, int i) {
    const tensor *t = i < n->n_in ? n->in[i] : NULL;
    return t && t->id < n->g->cap_wants && n->g->wants[t->id];
}

static void set_want(graph *g, const tensor *t, bool want) {
    int old = g->cap_wants;
    if (!graph_grow(g, (void **)&g->wants, &g->cap_wants, t->id + 1, sizeof *g->wants)) return;
    if (g->cap_wants > old) memset(g->wants + old, 0, sizeof *g->wants * (size_t)(g->cap_wants - old));
    g->wants[t->id] = want;
}

/* Marks every forward tensor that depends on a wanted one. */
static void mark_wants(graph *g, tensor *const *wanted, int n) {
    if (g->wants) memset(g->wants, 0, sizeof *g->wants * (size_t)g->cap_wants);
    if (g->n_tensors) set_want(g, g->tensor[g->n_tensors - 1], false);
    for (int i = 0; i < n && g->st == OK; i++) set_want(g, wanted[i], true);
    for (int k = 0; k < g->n_nodes && g->st == OK; k++) {
        node *nd = g->node[k];
        bool any = false;
        for (int i = 0; i < nd->n_in; i++) any |= node_wants(nd, i);
        for (int i = 0; any && i < nd->n_out; i++) set_want(g, nd->out[i], true);
    }
}

static void clone_segment(walk *w, int segment) {
    graph *g = w->g;
    w->cloned[segment] = true;
    for (int k = 0; k < w->n_nodes && g->st == OK; k++) {
        node *n = g->node[k];
        if (n->segment != segment) continue;
        if (n->op->writes) {
            graph_fail(g, n->at, E_UNSUPPORTED, "%s updates memory in place and cannot be in a checkpointed segment", n->op->name);
            return;
        }
        tensor *in[MAX_IN];
        for (int i = 0; i < n->n_in; i++)
            in[i] = n->in[i] && w->clone[n->in[i]->id] ? w->clone[n->in[i]->id] : n->in[i];
        tensor *first = op_record(g, n->op, n->at, n->attrs, n->n_in, in);
        if (first->poison) return;
        w->node_clone[k] = first->by;
        for (int i = 0; i < n->n_out; i++) {
            w->clone[n->out[i]->id] = first->by->out[i];
            set_want(g, first->by->out[i], g->wants[n->out[i]->id]);
        }
    }
}

static void accumulate(walk *w, tensor *to, tensor *d, const char *at) {
    if (!d || d->poison) return;
    graph *g = w->g;
    const op_table *ops = &g->dev->ops;
    tensor *have = w->grad[to->id];
    if (!shape_equal(&d->s, &to->s)) {
        char a[96], b[96];
        graph_fail(g, at, E_SHAPE, "gradient %s of a tensor %s", shape_text(&d->s, a), shape_text(&to->s, b));
        return;
    }
    if (!have) {
        w->grad[to->id] = d;
        return;
    }
    if (have->dtype != d->dtype) {
        dtype acc = dtype_acc(have->dtype == DT_F64 ? DT_F64 : d->dtype);
        have = ops->cast(g, have, acc, at);
        d = ops->cast(g, d, acc, at);
    }
    w->grad[to->id] = ops->add(g, have, d, at);
}

static void backward_node(walk *w, node *n) {
    graph *g = w->g;
    bool any_dy = false, any_want = false;
    for (int k = 0; k < n->n_out; k++) any_dy |= w->grad[n->out[k]->id] != NULL;
    for (int i = 0; i < n->n_in; i++) any_want |= node_wants(n, i);
    if (!any_dy || !any_want) return;
    if (!n->op->backward) {
        graph_fail(g, n->at, E_UNSUPPORTED, "%s has no gradient", n->op->name);
        return;
    }
    if (w->checkpoint && n->segment >= 0 && !w->cloned[n->segment]) clone_segment(w, n->segment);
    node *use = w->node_clone[n->id] ? w->node_clone[n->id] : n;
    tensor *dy[MAX_OUT] = {0}, *dx[MAX_IN] = {0};
    for (int k = 0; k < n->n_out; k++) {
        dy[k] = w->grad[n->out[k]->id];
        if (dy[k] && !n->op->grad_any_type && dy[k]->dtype != n->out[k]->dtype)
            dy[k] = g->dev->ops.cast(g, dy[k], n->out[k]->dtype, n->at);
    }
    if (g->st != OK) return;
    n->op->backward(g, use, dy, dx);
    for (int i = 0; i < n->n_in && g->st == OK; i++)
        if (n->in[i] && node_wants(n, i)) accumulate(w, n->in[i], dx[i], n->at);
}

void graph_backward(graph *g, tensor *loss, tensor *seed, tensor *const *wanted, int n, tensor **grads, bool checkpoint) {
    for (int i = 0; i < n; i++) grads[i] = NULL;
    for (int i = 0; i < n; i++)
        if (wanted[i]->poison) return;
    if (g->st != OK || loss->poison || seed->poison) return;
    if (!shape_equal(&loss->s, &seed->s) || tensor_count(loss) != 1) {
        graph_fail(g, HERE, E_SHAPE, "the loss and its seed must be single elements of one shape");
        return;
    }
    int segment = g->segment;
    g->segment = -1;
    walk w = {.g = g, .n_nodes = g->n_nodes, .n_tensors = g->n_tensors, .checkpoint = checkpoint};
    w.grad = arena_new(&g->a, tensor *, g->n_tensors);
    w.clone = arena_new(&g->a, tensor *, g->n_tensors);
    w.node_clone = arena_new(&g->a, node *, g->n_nodes + 1);
    w.cloned = arena_new(&g->a, bool, g->n_segments + 1);
    if (!w.grad || !w.clone || !w.node_clone || !w.cloned) {
        graph_fail(g, HERE, E_HOST_MEMORY, "no host memory to differentiate %d nodes", g->n_nodes);
        return;
    }
    mark_wants(g, wanted, n);
    w.grad[loss->id] = seed;
    for (int k = w.n_nodes - 1; k >= 0 && g->st == OK; k--) backward_node(&w, g->node[k]);
    for (int i = 0; i < n && g->st == OK; i++) grads[i] = w.grad[wanted[i]->id];
    g->segment = segment;
}
