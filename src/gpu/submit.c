/* submit.c: running a recorded command list, and its times. Two command buffers are in flight,
 * so that the GPU does not idle while the host asks whether the user cancelled.
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"

status gpu_cmd_run(gpu_cmd *c, bool (*cancelled)(void *), void *ctx) {
    status st = OK;
    const VkCommandBuffer *cb = c->buffers.p;
    int started = 0, done = 0;
    if (!c->ended) return fail(E_UNSUPPORTED, "a command list is run before it was ended");
    for (; started < c->buffers.n; started++) {
        if (started - done == CMD_IN_FLIGHT) {
            TRY(gpu_wait(c->d, c->fence[done % CMD_IN_FLIGHT]));
            done++;
        }
        if (cancelled && cancelled(ctx)) TRY(fail(E_CANCELLED, "cancelled"));
        TRY(gpu_submit(c->d, cb[started], c->fence[started % CMD_IN_FLIGHT]));
    }
    c->ran = true;
out:
    for (; done < started;
         done++) { /* also after a failure: nothing may still be running when memory is reused */
        status s = c->d->lost ? OK : gpu_wait(c->d, c->fence[done % CMD_IN_FLIGHT]);
        if (st == OK) st = s;
    }
    return st;
}

static status read_ticks(gpu_cmd *c, int index, uint64_t *ticks) {
    status st = OK;
    VkQueryPool q = ((VkQueryPool *)c->queries.p)[(uint32_t)index / QUERY_BLOCK];
    VK(c->d->vk.vkGetQueryPoolResults(c->d->device, q, (uint32_t)index % QUERY_BLOCK, 1,
                                      sizeof *ticks, ticks, sizeof *ticks,
                                      VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT));
out:
    return st;
}

status gpu_cmd_times(gpu_cmd *c, int n_marks, double *ms) {
    status st = OK;
    const gpu_physical *p = c->d->phys;
    if (!c->d->caps.timestamps) return fail(E_UNSUPPORTED, "%s has no timestamps", c->d->caps.name);
    if (n_marks < 0 || n_marks > c->n_marks || !c->ran)
        return fail(E_UNSUPPORTED, "times of %d marks asked, %d were recorded%s", n_marks,
                    c->n_marks, c->ran ? "" : " and not run");
    uint64_t mask = p->timestamp_bits >= 64 ? UINT64_MAX : ((uint64_t)1 << p->timestamp_bits) - 1,
             last = 0;
    for (int i = 0; i <= n_marks && n_marks > 0; i++) {
        uint64_t ticks = 0;
        TRY(read_ticks(c, i, &ticks));
        if (i > 0)
            ms[i - 1] = (double)((ticks - last) & mask) * (double)p->timestamp_ns *
                        1e-6; /* the counter may wrap */
        last = ticks;
    }
out:
    return st;
}
