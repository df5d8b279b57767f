/* morph.h: what morph.c (command), morph_files.c (strip, animation) and morph_page.c (the page) share.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "cli/cli.h"
#include "file/image.h"
#include "imago.h"

typedef struct morph_output {
    const char *dir; int total, written;   /* frames in all, and so far */
    int width, height, fps;
    bool loop;
    double *gap;                           /* [total]: of frame i and i - 1, rms over all values, 0..1 */
    const char *title;                     /* for people */
} morph_output;
/* "DIR/frame-0001.png" for frame 0 */
void   morph_frame_path(const morph_output *o, int frame, char path[1200]);
void   morph_file_path(const morph_output *o, const char *name, char path[1200]);
/* All frames beside each other with black gaps; frames shrink where the strip would be wider than pictures may be. */
status morph_write_strip(const morph_output *o);
status morph_write_animation(const morph_output *o);
/* One self-contained page: slider, play, gaps. */
status morph_write_page(const morph_output *o);
