/* fault.c: the fault ring: makes the n-th fallible step (allocation, file open, read, write) fail,
 * so that tests can walk every failure path. Test-only process state, atomic since any thread may
 * allocate. Never armed outside tests, where it costs one relaxed increment per allocation.
 * SPDX-License-Identifier: MIT */
#include "base/base.h"

#include <stdatomic.h>

static atomic_int_fast64_t steps, armed;

void fault_arm(int64_t nth) {
    atomic_store(&steps, 0);
    atomic_store(&armed, nth);
}

bool fault_hit(void) {
    int64_t step = (int64_t)atomic_fetch_add_explicit(&steps, 1, memory_order_relaxed) + 1;
    return step == (int64_t)atomic_load_explicit(&armed, memory_order_relaxed);
}

int64_t fault_count(void) { return (int64_t)atomic_load(&steps); }
