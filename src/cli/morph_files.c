/* morph_files.c: what imago morph makes of its frames: the strip and the animation. Frames are read back from their files, one
 * at a time, so that any number of them fits.
 * The video is ffmpeg's work, if the user has it.
 * SPDX-License-Identifier: MIT */
#include "cli/morph.h"
#include <stdio.h>

#define BORDER      2    /* px, black, as FreeMorph's strips */
#define END_HOLD_MS 700  /* the first and the last frame stand longer */

void morph_file_path(const morph_output *o, const char *name, char path[1200]) { snprintf(path, 1200, "%.1000s/%s", o->dir, name); }

void morph_frame_path(const morph_output *o, int frame, char path[1200]) {
    char name[32];
    snprintf(name, sizeof name, "frame-%04d.png", frame + 1);
    morph_file_path(o, name, path);
}

static status load_frame(const morph_output *o, int i, int w, int h, image *out) {
    status st = OK;
    char path[1200];
    image whole = {0};
    morph_frame_path(o, i, path);
    TRY(image_load(path, &whole));
    TRY(image_flatten(&whole, (const uint8_t[]){255, 255, 255}));
    if (whole.w == w && whole.h == h) *out = whole, whole = (image){0};
    else TRY(image_resize(&whole, w, h, out));
out:
    image_free(&whole);
    return st;
}

status morph_write_strip(const morph_output *o) {
    status st = OK;
    image strip = {0}, frame = {0};
    char path[1200];
    int w = MIN(o->width, (IMAGE_MAX_SIDE - BORDER) / o->total - BORDER), h = (int)((int64_t)o->height * w / o->width);
    if (w < 1 || h < 1) return fail(E_UNSUPPORTED, "%d frames are too many for one strip", o->total);
    TRY(image_create(BORDER + o->total * (w + BORDER), h + 2 * BORDER, 3, &strip));
    for (int i = 0; i < o->total; i++) {
        TRY(load_frame(o, i, w, h, &frame));
        for (int y = 0; y < h; y++)
            memcpy(strip.px + ((size_t)(y + BORDER) * (size_t)strip.w + (size_t)(BORDER + i * (w + BORDER))) * 3, frame.px + (size_t)y * (size_t)w * 3, (size_t)w * 3);
        image_free(&frame);
    }
    morph_file_path(o, "strip.png", path);
    TRY(image_save_png(path, &strip, NULL, 0));
out:
    image_free(&frame);
    image_free(&strip);
    return st;
}

status morph_write_animation(const morph_output *o) {
    status st = OK;
    webp_animation *a = NULL;
    image frame = {0};
    char path[1200];
    /* there and back again, unless the last frame leads to the first */
    int n = o->loop ? o->total : MAX(2 * o->total - 2, 1);
    TRY(webp_animation_open(o->width, o->height, &a));
    for (int i = 0; i < n; i++) {
        int f = i < o->total ? i : n - i;
        bool end = !o->loop && (f == 0 || f == o->total - 1);
        TRY(load_frame(o, f, o->width, o->height, &frame));
        TRY(webp_animation_add(a, &frame, end ? END_HOLD_MS : MAX(1000 / o->fps, 1)));
        image_free(&frame);
    }
    morph_file_path(o, "morph.webp", path);
    TRY(webp_animation_save(a, path));
out:
    image_free(&frame);
    webp_animation_close(a);
    return st;
}

/* A folder's name in a pattern of ffmpeg: '%' twice. Paths are made such that they are no options. */
static void escape_pattern(const char *dir, char *out, size_t room) {
    size_t n = (size_t)snprintf(out, room, "%s", dir[0] == '/' ? "" : "./");
    for (; *dir && n + 3 < room; dir++) {
        if (*dir == '%') out[n++] = '%';
        out[n++] = *dir;
    }
    out[n] = 0;
}

status morph_write_video(const morph_output *o, bool *made) {
    status st = OK;
    char dir[2100], frames[2200], unfinished[1300], path[1300], name[1200], rate[16];
    int code = 0;
    *made = false;
    escape_pattern(o->dir, dir, sizeof dir);
    snprintf(frames, sizeof frames, "%s/frame-%%04d.png", dir);
    morph_file_path(o, "morph.mp4.part", name);
    snprintf(unfinished, sizeof unfinished, "%s%s", o->dir[0] == '/' ? "" : "./", name);
    morph_file_path(o, "morph.mp4", path);
    snprintf(rate, sizeof rate, "%d", o->fps);
    /* yuv420p, hence even sides: what every player shows */
    const char *const argv[] = {"ffmpeg", "-nostdin", "-y", "-framerate", rate, "-start_number", "1", "-i", frames, "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p", "-f", "mp4", unfinished, NULL};
    TRY(os_run(argv, &code));
    if (code == 0) {
        TRY(os_file_rename(unfinished, path));
        *made = true;
    } else {
        TRY(os_file_remove(unfinished));
        if (code != 127) fprintf(stderr, "no morph.mp4: ffmpeg gave up (exit code %d)\n", code);
    }
out:
    return st;
}

status morph_remove_stale(const morph_output *o) {
    status st = OK;
    char path[1200];
    for (int f = o->total;; f++) {
        morph_frame_path(o, f, path);
        if (!os_file_exists(path)) break;
        TRY(os_file_remove(path));
    }
    morph_file_path(o, "morph.mp4", path);
    TRY(os_file_remove(path));
out:
    return st;
}
