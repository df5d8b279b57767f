/* gaps.c: what the distances of neighbouring frames say of a sequence. SPDX-License-Identifier: MIT
 */
#include "eval/eval.h"
#include <assert.h>
#include <math.h>

gap_measures gaps_measure(const double *gap, int n) {
    assert(n >= 1);
    double sum = 0, most = 0, apart = 0, per_side = MAX(n - 1, 1);
    for (int i = 0; i < n; i++) {
        sum += gap[i], most = fmax(most, gap[i]);
        for (int j = 0; j < i; j++) apart += fabs(gap[i] - gap[j]);
    }
    gap_measures m = {
        .path = sum, .ppl = sum * per_side * per_side, .largest = 1, .first = 1, .last = 1};
    if (!(sum > 0)) return m;
    double mean = sum / n;
    m.largest = most / mean;
    m.gini = apart / (n * sum);
    m.first = gap[0] / mean;
    m.last = gap[n - 1] / mean;
    return m;
}
