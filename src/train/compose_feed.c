/* compose_feed.c: samples composed ahead of a training loop that must never wait. A ring of slots:
 * sample s lives in slot s % ahead. Workers take the next sample nobody has taken, as soon as its
 * slot has been read; the reader takes samples in order. Who composed what does not show.
 * SPDX-License-Identifier: MIT */
#include "base/thread.h"
#include "train/compose.h"

#include <stdio.h>

typedef struct slot {
    bool ready;
    compose_info info;
} slot;

struct compose_feed {
    const composer *m;
    uint64_t first;
    os_monitor *monitor;  /* guards all that follows, but for the pixels of a slot that is taken */
    uint64_t taken, read; /* samples, from first on */
    int ahead;
    slot *slots;
    uint8_t *rgb; /* [ahead, 128, 128, 3] */
    bool closing;
    status st; /* of the first sample that failed */
    char message[512];
    int n_workers;
    struct worker {
        compose_feed *feed;
        compose_work *work;
        os_thread *thread;
    } * workers;
};

static uint8_t *pixels(const compose_feed *f, uint64_t sample) {
    return f->rgb + (size_t)(sample % (uint64_t)f->ahead) * COMPOSE_RGB_BYTES;
}

static void work(void *ctx) {
    struct worker *me = ctx;
    compose_feed *f = me->feed;
    os_monitor_lock(f->monitor);
    for (;;) {
        while (!f->closing && f->st == OK && f->taken - f->read >= (uint64_t)f->ahead)
            os_monitor_wait(f->monitor);
        if (f->closing || f->st != OK) break;
        uint64_t sample = f->taken++;
        compose_info info;
        os_monitor_unlock(f->monitor);
        status st = compose_sample(f->m, f->first + sample, me->work, pixels(f, sample), &info);
        os_monitor_lock(f->monitor);
        if (st != OK && f->st == OK) {
            f->st = st;
            snprintf(f->message, sizeof f->message, "%s", error_message());
        }
        f->slots[sample % (uint64_t)f->ahead] = (slot){st == OK, info};
        os_monitor_wake_all(f->monitor);
    }
    os_monitor_unlock(f->monitor);
}

status compose_feed_open(const composer *m, int threads, int ahead, uint64_t first,
                         compose_feed **out) {
    status st = OK;
    compose_feed *f = *out = NULL;
    if (threads < 1 || threads > 1024 || ahead < 1 || ahead > 1 << 20) {
        st = fail(E_USAGE, "compose: %d threads, %d samples ahead; give 1..1024 and 1..%d", threads,
                  ahead, 1 << 20);
        goto out;
    }
    f = mem_zalloc(sizeof *f);
    if (f) {
        f->m = m, f->first = first, f->ahead = ahead;
        f->slots = mem_zalloc(sizeof *f->slots * (size_t)ahead);
        f->rgb = mem_alloc(COMPOSE_RGB_BYTES * (size_t)ahead);
        f->workers = mem_zalloc(sizeof *f->workers * (size_t)threads);
    }
    if (!f || !f->slots || !f->rgb || !f->workers) {
        st = fail(E_HOST_MEMORY, "compose: no memory for %d samples ahead: give fewer", ahead);
        goto out;
    }
    TRY(os_monitor_create(&f->monitor));
    while (f->n_workers < threads) {
        struct worker *w = &f->workers[f->n_workers++];
        w->feed = f;
        TRY(compose_work_create(&w->work));
        TRY(os_thread_start(work, w, &w->thread));
    }
    *out = f;
    f = NULL;
out:
    compose_feed_close(f);
    return st;
}

status compose_feed_next(compose_feed *f, int n, uint8_t *rgb, compose_info *info) {
    status st = OK;
    for (int i = 0; i < n && st == OK; i++) {
        slot *s = &f->slots[f->read % (uint64_t)f->ahead]; /* only the reader changes `read` */
        os_monitor_lock(f->monitor);
        while (!s->ready && f->st == OK) os_monitor_wait(f->monitor);
        st = f->st;
        os_monitor_unlock(f->monitor);
        if (st != OK) return fail(st, "%s", f->message);
        memcpy(rgb + (size_t)i * COMPOSE_RGB_BYTES, pixels(f, f->read), COMPOSE_RGB_BYTES);
        info[i] = s->info;
        os_monitor_lock(f->monitor);
        s->ready = false;
        f->read++;
        os_monitor_wake_all(f->monitor);
        os_monitor_unlock(f->monitor);
    }
    return st;
}

void compose_feed_close(compose_feed *f) {
    if (!f) return;
    if (f->monitor) {
        os_monitor_lock(f->monitor);
        f->closing = true;
        os_monitor_wake_all(f->monitor);
        os_monitor_unlock(f->monitor);
    }
    for (int i = 0; i < f->n_workers; i++) {
        os_thread_join(f->workers[i].thread);
        compose_work_destroy(f->workers[i].work);
    }
    os_monitor_destroy(f->monitor);
    mem_free(f->workers);
    mem_free(f->rgb);
    mem_free(f->slots);
    mem_free(f);
}
