/* probe.h: the questions by which a text-to-image model trained on the corpus is judged. A probe is a
 * held-out picture of a thing that was trained in other styles: its plain caption is the prompt, and
 * what the model makes of it should be nearer to this picture than to other things in that style.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "train/corpus.h"

typedef struct probe {
    int picture;                /* pair_holdout: the true answer */
    int sibling;                /* the thing trained in another style: a ceiling for copying */
    const int *candidate; int n_candidates; /* pictures of that style, the true one among them, by index */
} probe;

/* The same n probes of a corpus every time (fewer if it holds out fewer), Symbols left out; each with
 * n_candidates candidates (fewer if the style has fewer). Memory of a.   errors  E_USAGE, E_HOST_MEMORY */
status probe_list(const corpus *c, int n, int n_candidates, arena *a, probe **out, int *n_out);
