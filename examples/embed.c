/* embed.c: the smallest program that uses imago as a library; it includes imago.h and nothing else of it.
 *     build/embed MODEL "a red fox" fox.png
 * SPDX-License-Identifier: MIT */
#include "imago.h"
#include <stdio.h>

static void show(void *ctx, const imago_progress *p) {
    (void)ctx;
    if (p->stage == IMAGO_SAMPLING) fprintf(stderr, "\rstep %d of %d", p->step, p->steps);
    if (p->stage == IMAGO_SAMPLING && p->step == p->steps) fputc('\n', stderr);
}

int main(int argc, char **argv) {
    imago *im = NULL;
    imago_picture *pic = NULL;
    int code = 1;
    if (argc != 4) return fprintf(stderr, "usage: embed MODEL PROMPT OUT.png\n"), 2;
    if (imago_open(&IMAGO_OPEN(.model = argv[1], .progress = show), &im) != IMAGO_OK) goto out;
    if (imago_generate(im, &IMAGO_GENERATE(.prompt = argv[2], .seed = 1), &pic) != IMAGO_OK) goto out;
    if (imago_save_picture(&pic[0], argv[3]) != IMAGO_OK) goto out;
    code = 0;
out:
    if (code) fprintf(stderr, "%s\n", imago_error_message());
    imago_free_pictures(pic, 1);
    imago_close(im);
    return code;
}
