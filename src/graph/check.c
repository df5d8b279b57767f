/* check.c: what IMAGO_CHECK, IMAGO_DUMP and IMAGO_PROFILE do to a plan.
 *   finite  after each node: no output may hold NaN or infinity
 *   ref     after each node: run its plain-C meaning on the same inputs and compare
 *   guard   every tensor gets its own memory between zones of a known pattern, filled with NaN before the run
 *   dump    each node's outputs as NNNN_op.K.bin beside NNNN_op.txt (type, shape, source line)
 * SPDX-License-Identifier: MIT */
#include "graph/graph_internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define GUARD_WORD 0x5a5aa5a5u
#define NAN_WORD   0xffffffffu /* a NaN in f32, f16 and bf16 */

/* The device's own clock times nodes within a whole run, as they are in earnest. */
bool profile_by_stamps(const device *d) {
    return d->checks.profile && d->gpu && gpu_get_caps(d->gpu)->timestamps;
}

bool checks_need_nodes(const device *d) {
    const device_checks *c = &d->checks;
    return c->finite || c->ref || c->dump_dir || (c->profile && !profile_by_stamps(d));
}

static status check_finite(const node *n, const tensor *t, const void *data) {
    if (t->dtype == DT_U32) return OK;
    EACH(i, t) {
        double v = dtype_load(data, t->dtype, i);
        char b[96];
        if (!isfinite(v))
            return fail(E_FORMAT, "%s: %s %s element %lld is %f (IMAGO_CHECK=finite)", n->at, n->op->name, shape_text(&t->s, b), (long long)i, v);
    }
    return OK;
}

/* Runs ref on downloaded copies of the inputs. Ops that update inputs in place cannot be repeated and are passed over. */
static status check_ref(plan *p, node *n, void *const *outs) {
    status st = OK;
    tensor in[MAX_IN], want[MAX_OUT];
    node copy = *n;
    memset(in, 0, sizeof in);
    memset(want, 0, sizeof want);
    if (n->op->writes || !n->op->ref) return OK;
    for (int i = 0; i < n->n_in; i++) {
        if (!n->in[i]) continue;
        in[i] = *n->in[i];
        in[i].data = mem_alloc(tensor_bytes(&in[i]));
        if (!in[i].data) TRY(fail(E_HOST_MEMORY, "no host memory to check %s", n->op->name));
        TRY(tensor_download(p->dev, n->in[i], in[i].data));
        copy.in[i] = &in[i];
    }
    for (int k = 0; k < n->n_out; k++) {
        want[k] = *n->out[k];
        want[k].data = mem_zalloc(tensor_bytes(&want[k]));
        if (!want[k].data) TRY(fail(E_HOST_MEMORY, "no host memory to check %s", n->op->name));
        copy.out[k] = &want[k];
    }
    n->op->ref(&copy);
    for (int k = 0; k < n->n_out; k++) {
        double worst = 0, size = 1e-30;
        EACH(i, n->out[k]) {
            double a = dtype_load(outs[k], want[k].dtype, i), b = dtype_load(want[k].data, want[k].dtype, i);
            if (a == b) continue;
            worst = fmax(worst, isnan(a - b) ? INFINITY : fabs(a - b));
            size = fmax(size, isfinite(b) ? fabs(b) : 0);
        }
        if (worst > size * 1e-3 + 16 * size * dtype_epsilon(want[k].dtype))
            TRY(fail(E_FORMAT, "%s: %s output %d differs from its ref by %g of %g (IMAGO_CHECK=ref)", n->at, n->op->name, k, worst, size));
    }
out:
    for (int i = 0; i < n->n_in; i++) mem_free(in[i].data);
    for (int k = 0; k < n->n_out; k++) mem_free(want[k].data);
    return st;
}

static status dump(const plan *p, const node *n, const tensor *t, int k, const void *data) {
    status st = OK;
    char path[600], text[300], b[96];
    TRY(os_mkdir_p(p->dev->checks.dump_dir));
    snprintf(path, sizeof path, "%s/%04d_%s.%d.bin", p->dev->checks.dump_dir, n->id, n->op->name, k);
    TRY(file_write_atomic(path, data, tensor_bytes(t)));
    int len = snprintf(text, sizeof text, "%s %s %s %s\n", n->op->name, dtype_name(t->dtype), shape_text(&t->s, b), n->at);
    snprintf(path, sizeof path, "%s/%04d_%s.%d.txt", p->dev->checks.dump_dir, n->id, n->op->name, k);
    TRY(file_write_atomic(path, text, (size_t)len));
out:
    return st;
}

status check_node(plan *p, node *n) {
    status st = OK;
    const device_checks *c = &p->dev->checks;
    void *outs[MAX_OUT] = {0};
    if (!c->finite && !c->ref && !c->dump_dir) return OK;
    for (int k = 0; k < n->n_out; k++) {
        if (n->out[k]->first < 0) continue;
        outs[k] = mem_alloc(tensor_bytes(n->out[k]));
        if (!outs[k]) TRY(fail(E_HOST_MEMORY, "no host memory to check %s", n->op->name));
        TRY(tensor_download(p->dev, n->out[k], outs[k]));
        if (c->finite) TRY(check_finite(n, n->out[k], outs[k]));
        if (c->dump_dir) TRY(dump(p, n, n->out[k], k, outs[k]));
    }
    if (c->ref && !p->dev->ref) TRY(check_ref(p, n, outs));
out:
    for (int k = 0; k < n->n_out; k++) mem_free(outs[k]);
    return st;
}

/* ---- guard zones ---- */

static bool placed(const tensor *t) { return t->first >= 0 && !t->base; }

/* Zones and payload of t in a host image of its chunk. */
static void paint(uint8_t *chunk, const tensor *t) {
    uint32_t *w = (uint32_t *)(void *)(chunk + t->offset);
    size_t payload = align_up(tensor_bytes(t), 4) / 4, zone = GUARD_BYTES / 4;
    for (size_t i = 0; i < zone; i++) w[i] = GUARD_WORD;
    for (size_t i = 0; i < payload; i++) w[zone + i] = NAN_WORD;
    for (size_t i = 0; i < zone; i++) w[zone + payload + i] = GUARD_WORD;
}

static status verify(const uint8_t *chunk, const tensor *t) {
    const uint32_t *w = (const uint32_t *)(const void *)(chunk + t->offset);
    size_t payload = align_up(tensor_bytes(t), 4) / 4, zone = GUARD_BYTES / 4;
    char b[96];
    for (size_t i = 0; i < zone; i++)
        if (w[i] != GUARD_WORD || w[zone + payload + i] != GUARD_WORD)
            return fail(E_FORMAT, "%s: something wrote %s %s %s (IMAGO_CHECK=guard)", t->by ? t->by->at : "?",
                        w[i] != GUARD_WORD ? "before" : "past", t->name, shape_text(&t->s, b));
    return OK;
}

static status each_chunk(plan *p, bool fill) {
    status st = OK;
    uint8_t *image = NULL;
    for (int c = 0; c < p->dev->n_chunks; c++) {
        const act_chunk *k = &p->dev->chunk[c];
        image = k->data ? k->data : mem_zalloc(k->bytes);
        if (!image) return fail(E_HOST_MEMORY, "no host memory for guard zones");
        if (!k->data && !fill) TRY(gpu_download(p->dev->gpu, k->span, image, k->bytes));
        for (int i = 0; i < p->g->n_tensors; i++) {
            const tensor *t = p->g->tensor[i];
            if (!placed(t) || t->chunk != c) continue;
            if (fill) paint(image, t);
            else TRY(verify(image, t));
        }
        if (!k->data && fill) TRY(gpu_upload(p->dev->gpu, k->span, image, k->bytes));
        if (!k->data) mem_free(image);
        image = NULL;
    }
    return OK;
out:
    if (p->dev->gpu) mem_free(image);
    return st;
}

status check_guards_fill(plan *p) { return each_chunk(p, true); }
status check_guards(plan *p) { return each_chunk(p, false); }

/* ---- profile ---- */

typedef struct row { const char *name; double ms, work; int calls; } row;

static int by_time(const void *a, const void *b) {
    double x = ((const row *)a)->ms, y = ((const row *)b)->ms;
    return x < y ? 1 : x > y ? -1 : 0;
}

void plan_profile_print(plan *p) {
    row r[128];
    int n = 0;
    double total = 0;
    for (int i = 0; i < p->n_order; i++) {
        const node *k = p->order[i];
        int at = 0;
        while (at < n && strcmp(r[at].name, k->op->name) != 0) at++;
        if (at == (int)ARRAY_LEN(r)) continue;
        if (at == n) r[n++] = (row){.name = k->op->name};
        r[at].ms += p->node_ms[i];
        r[at].work += k->work;
        r[at].calls++;
        total += p->node_ms[i];
    }
    qsort(r, (size_t)n, sizeof *r, by_time);
    log_info("%s on %s: %.2f ms in %d nodes", p->label[0] ? p->label : "plan", p->dev->id, total, p->n_order);
    for (int i = 0; i < n; i++)
        log_info("  %-18s %5d x %9.3f ms %5.1f %% %8.1f Gop/s", r[i].name, r[i].calls, r[i].ms, 100 * r[i].ms / total, r[i].work / r[i].ms / 1e6);
}

bool plan_op_time(const plan *p, const char *op, double *ms, double *work, double *bytes) {
    bool any = false;
    *ms = *work = *bytes = 0;
    for (int i = 0; i < p->n_order && p->profiled; i++) {
        const node *n = p->order[i];
        if (strcmp(n->op->name, op) != 0) continue;
        any = true;
        *ms += p->node_ms[i];
        *work += n->work;
        for (int k = 0; k < n->n_in; k++) *bytes += n->in[k] ? (double)tensor_bytes(n->in[k]) : 0;
        for (int k = 0; k < n->n_out; k++) *bytes += (double)tensor_bytes(n->out[k]);
    }
    return any;
}
