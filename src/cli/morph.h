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
/* A line of a manifest: {"exp_id": "fox-cat", "image_paths": ["fox.png", "cat.png"], "prompts": ["a fox", "a cat"]}; without exp_id
 * its folder is the line's number, without prompts it has none. Paths are beside the manifest unless they begin with '/'. */
#define MORPH_MAX_PICTURES 64
typedef struct manifest_line { const char *id, *path[MORPH_MAX_PICTURES], *prompt[MORPH_MAX_PICTURES]; int n; } manifest_line;
status manifest_read(const char *path, arena *a, manifest_line **lines, int *n);

/* "DIR/frame-0001.png" for frame 0 */
void   morph_frame_path(const morph_output *o, int frame, char path[1200]);
void   morph_file_path(const morph_output *o, const char *name, char path[1200]);
/* All frames beside each other with black gaps; frames shrink where the strip would be wider than pictures may be. */
status morph_write_strip(const morph_output *o);
status morph_write_animation(const morph_output *o);
/* morph.mp4, forwards, where a program called ffmpeg is found; *made: it was. What ffmpeg cannot do is no failure, but said. */
status morph_write_video(const morph_output *o, bool *made);
/* Frames that an earlier, longer morph left behind the last one, and its video. */
status morph_remove_stale(const morph_output *o);
/* One self-contained page: slider, play, gaps. */
status morph_write_page(const morph_output *o);
