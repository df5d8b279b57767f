/* os_posix.c: processors, memory, clock, terminal and Ctrl-C. With os_posix_file.c it is every OS
 * call of the program: a port replaces these two. Containers are common, so limits of control
 * groups (version 2) count where they are below the machine's. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "base/base.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <time.h>
#include <unistd.h>

/* ---- numbers the kernel prints ---- */
/* The unsigned number after `key` at the start of a line of a small text file; key "" = the first
 * word. */
static bool kernel_number(const char *path, const char *key, uint64_t *out) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key))) continue;
        char *end, *at = line + strlen(key);
        *out = strtoull(at, &end, 10);
        found = end != at;
        if (!*key) break;
    }
    fclose(f);
    return found;
}

int os_cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    FILE *f =
        fopen("/sys/fs/cgroup/cpu.max", "re"); /* "quota period" in microseconds, or "max period" */
    long long quota, period;
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
            n = (int)MIN((long long)n, (quota + period - 1) / period);
        fclose(f);
    }
    return MAX(n, 1);
}

uint64_t os_peak_memory_bytes(void) {
    struct rusage u;
#if defined(__APPLE__)
    const uint64_t unit = 1;
#else
    const uint64_t unit = 1024;
#endif
    return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * unit : 0;
}

uint64_t os_entropy(void) {
    uint64_t v = 0;
    struct timespec t;
    if (getentropy(&v, sizeof v) == 0) return v;
    clock_gettime(CLOCK_REALTIME, &t); /* a kernel without it: the time of day will do for a seed */
    return (uint64_t)t.tv_sec * 1000003u ^ (uint64_t)t.tv_nsec;
}

void os_restart_with(const char *name, const char *value, char **argv) {
    if (setenv(name, value, 1) == 0) execv("/proc/self/exe", argv);
}

/* Linux hands out the 8 KiB of tile state per process on request (arch_prctl, since 5.16); asking
 * again is harmless, and oneDNN asks as well. */
bool os_request_tile_state(void) {
#if defined(__linux__) && defined(__x86_64__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

uint64_t os_memory_total_bytes(void) {
    uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), limit;
    if (kernel_number("/sys/fs/cgroup/memory.max", "", &limit)) total = MIN(total, limit);
    return total;
}

uint64_t os_memory_available_bytes(void) {
    uint64_t kib, bytes, limit, used, cache;
    if (kernel_number("/proc/meminfo", "MemAvailable:", &kib))
        bytes = kib * 1024;
    else
        bytes = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (kernel_number("/sys/fs/cgroup/memory.max", "", &limit) &&
        kernel_number("/sys/fs/cgroup/memory.current", "", &used)) {
        if (kernel_number("/sys/fs/cgroup/memory.stat", "inactive_file ", &cache))
            used -= MIN(used, cache);
        bytes = MIN(bytes, limit - MIN(limit, used));
    }
    return bytes;
}

/* ---- clock and terminal ---- */
double os_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bool os_is_terminal(int fd) { return isatty(fd) == 1; }

int os_terminal_columns(void) {
    struct winsize w = {0};
    return ioctl(2, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

/* ---- Ctrl-C: a flag, since a signal handler may do little else ---- */
static atomic_bool interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    atomic_store(&interrupted, true); /* lock-free, hence allowed in a handler */
}

void os_cancel_on_interrupt(void) {
    struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    a.sa_handler = on_interrupt;
    sigaction(SIGTERM, &a, NULL);
}

bool os_cancelled(void) { return atomic_load(&interrupted); }
