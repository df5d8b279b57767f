/* graph_internal.h: the structs behind graph.h, for graph/ only.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/op_info.h"

#define GUARD_BYTES 256        /* zone on each side of a tensor under IMAGO_CHECK=guard */
#define ACT_MAX_CHUNKS 64

/* One piece of the activation space. Shared by all plans of the device; grows by adding, never moves. */
typedef struct act_chunk { uint64_t bytes; void *data; gpu_span span; } act_chunk;

struct device {
    op_table ops;
    char id[24];
    bool ref;                             /* every op by its ref */
    gpu_instance *instance; gpu *gpu;     /* vulkan */
    host *host;                           /* cpu, ref */
    device_checks checks;
    uint64_t limit_bytes, used_bytes;     /* of arrays and activation chunks */
    uint64_t graphs_made;                 /* tells a recycled graph pointer from the graph an array last met */
    uint64_t max_tensor_bytes;            /* one binding; UINT64_MAX on cpu */
    size_t align;                         /* of tensor offsets */
    act_chunk chunk[ACT_MAX_CHUNKS]; int n_chunks;
};

typedef struct array_pack {               /* a copy of a frozen array in the layout an op wants */
    struct array_pack *next; char key[96]; array *packed; uint64_t version;
} array_pack;

struct array {
    device *dev; region region; dtype dtype; shape s; char name[128];
    void *data; gpu_span span; array *parent;
    bool deferred;                        /* has no memory (yet) */
    array_fetch fetch; void *fetch_ctx;   /* where its values come from; NULL = zeros */
    array_pack *packs; uint64_t version;  /* counts writes; a pack with another version is stale */
    graph *last_graph; tensor *last_tensor; uint64_t last_graph_id; /* graph_array's memo */
};

typedef struct pack_use { node *n; int in, slot; array_pack *pack; status (*fill)(const pack_io *, void *); void *ctx; } pack_use;

struct graph {
    device *dev; uint64_t id; arena a;
    status st; char error[512];
    node **node; int n_nodes, cap_nodes;
    tensor **tensor; int n_tensors, cap_tensors;
    tensor *poison; int segment, n_segments;
    bool *wants; int cap_wants;           /* by tensor id, during graph_backward */
    array **own; int n_own, cap_own;      /* input arrays, made at compile */
    pack_use *use; int n_use, cap_use;
};

typedef struct profile_row { double ms; int calls; double work; } profile_row;

struct plan {
    graph *g; device *dev; plan_report report; char label[64];
    gpu_cmd *cmd;                          /* vulkan */
    node **order; int n_order;             /* live nodes that execute */
    double *node_ms; bool profiled; bool guarded;
    gpu_cmd **node_cmd;                    /* vulkan under checks: one list per node */
};

/* array.c */
void   array_release(device *d, region r, uint64_t bytes, void *data, gpu_span span);
status array_hold(array *a);                  /* gives a deferred array memory and values */
status pack_fill(device *d, const pack_use *u);
/* device.c */
status device_room(device *d, uint64_t bytes, const char *what); /* E_*_MEMORY with the numbers when it does not fit */
/* record.c */
tensor *tensor_root(tensor *t);
bool    graph_grow(graph *g, void **p, int *cap, int need, size_t elem); /* false marks the graph failed */
tensor *tensor_new(graph *g);
/* memory.c */
status plan_place(plan *p, bool no_alias);    /* liveness, placement, report, memory check, chunks */
/* check.c */
status check_node(plan *p, node *n);          /* finite, ref, dump: after n ran */
status check_guards_fill(plan *p);
status check_guards(plan *p);
bool    profile_by_stamps(const device *d);    /* are nodes timed by the GPU's clock? */
bool   checks_need_nodes(const device *d);    /* must nodes run one by one? */
status tensor_download(const device *d, const tensor *t, void *dst);
