/* personalize_data.c: the pictures that a subject is learned from, and what is said of them. A
 * folder holds pictures, their masks and captions and nothing else, so that what was overlooked is
 * said and not skipped. SPDX-License-Identifier: MIT */
#include "engine/personalize.h"
#include <stdio.h>

enum { CAPTION_FILE_BYTES = 4096 };

static bool same_letters(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if ((*a >= 'A' && *a <= 'Z' ? *a + 32 : *a) != *b) return false;
    return *a == *b;
}

static bool is_picture(const char *dot) {
    static const char *const ends[] = {".png", ".jpg", ".jpeg", ".webp"};
    for (size_t i = 0; dot && i < ARRAY_LEN(ends); i++)
        if (same_letters(dot, ends[i])) return true;
    return false;
}

static size_t stem_bytes(const char *name) { return (size_t)(strrchr(name, '.') - name); }

static bool same_stem(const char *a, const char *b) {
    size_t n = stem_bytes(a);
    return n == stem_bytes(b) && memcmp(a, b, n) == 0;
}

/* "NAME.mask.png" */
static bool is_mask(const char *name) {
    size_t n = is_picture(strrchr(name, '.')) ? stem_bytes(name) : 0;
    return n > 5 && memcmp(name + n - 5, ".mask", 5) == 0;
}

static instance *picture_of_name(instance_set *s, const char *name, size_t stem) {
    for (int i = 0; i < s->n; i++)
        if (stem_bytes(s->it[i].name) == stem && memcmp(s->it[i].name, name, stem) == 0)
            return &s->it[i];
    return NULL;
}

status instances_add_text(instance_set *s, const char *text, int *which) {
    for (int i = 0; i < s->n_texts; i++)
        if (strcmp(s->text[i], text) == 0) return *which = i, OK;
    if (!(s->text[s->n_texts] = arena_printf(&s->mem, "%s", text)))
        return fail(E_HOST_MEMORY, "no host memory for captions");
    *which = s->n_texts++;
    return OK;
}

/* One line: line ends become blanks, those at the ends go. */
static status read_caption(instance_set *s, const char *path, int *which) {
    status st = OK;
    uint8_t *data = NULL;
    size_t bytes = 0, first = 0;
    TRY(file_read(path, CAPTION_FILE_BYTES, &data, &bytes));
    for (size_t i = 0; i < bytes; i++) {
        if (!data[i]) TRY(fail(E_FORMAT, "%s: no text: it holds a NUL byte", path));
        if (data[i] < ' ') data[i] = ' ';
    }
    while (bytes && data[bytes - 1] == ' ') data[--bytes] = 0;
    while (first < bytes && data[first] == ' ') first++;
    if (first == bytes)
        TRY(fail(E_FORMAT, "%s: an empty caption: write one, or remove the file", path));
    TRY(instances_add_text(s, (const char *)data + first, which));
out:
    mem_free(data);
    return st;
}

static status sort_out(instance_set *s, const char *folder, const char *const *name, int n) {
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(name[i], '.');
        if (is_mask(name[i])) continue;
        if (is_picture(dot)) {
            for (int k = 0; k < s->n; k++)
                if (same_stem(s->it[k].name, name[i]))
                    return fail(E_FORMAT, "%s: %s and %s have one name and would share a caption",
                                folder, s->it[k].name, name[i]);
            const char *path = arena_printf(&s->mem, "%s/%s", folder, name[i]);
            if (!path) return fail(E_HOST_MEMORY, "no host memory for %d pictures", n);
            s->it[s->n++] = (instance){.name = name[i], .path = path, .text = -1};
        } else if (!dot || !same_letters(dot, ".txt"))
            return fail(E_FORMAT,
                        "%s/%s: neither a picture (PNG, JPEG, WebP) nor a caption (.txt): move it "
                        "elsewhere",
                        folder, name[i]);
    }
    return OK;
}

static status captions(instance_set *s, const char *folder, const char *const *name, int n) {
    status st = OK;
    for (int i = 0; i < n; i++) {
        char path[1200];
        if (!same_letters(strrchr(name[i], '.'), ".txt")) continue;
        instance *of = picture_of_name(s, name[i], stem_bytes(name[i]));
        snprintf(path, sizeof path, "%s/%s", folder, name[i]);
        if (!of) TRY(fail(E_FORMAT, "%s: a caption without a picture of that name", path));
        TRY(read_caption(s, path, &of->text));
    }
out:
    return st;
}

static status masks(instance_set *s, const char *folder, const char *const *name, int n) {
    for (int i = 0; i < n; i++) {
        if (!is_mask(name[i])) continue;
        instance *of = picture_of_name(s, name[i], stem_bytes(name[i]) - 5);
        const char *path = arena_printf(&s->mem, "%s/%s", folder, name[i]);
        if (!path) return fail(E_HOST_MEMORY, "no host memory for %d pictures", n);
        if (!of) return fail(E_FORMAT, "%s: a mask without a picture of that name", path);
        if (of->mask) return fail(E_FORMAT, "%s: a second mask of %s", path, of->name);
        of->mask = path;
    }
    return OK;
}

status instances_open(const char *folder, const char *prompt, instance_set *out) {
    status st = OK;
    const char **name = NULL;
    int n = 0;
    *out = (instance_set){0};
    TRY(os_folder_list(folder, &out->mem, &name, &n));
    out->it = arena_new(&out->mem, instance, n + 1);
    out->text = arena_new(&out->mem, const char *, n + 2);
    if (!out->it || !out->text) TRY(fail(E_HOST_MEMORY, "no host memory to list %d files", n));
    TRY(sort_out(out, folder, name, n));
    if (!out->n)
        TRY(fail(E_FORMAT, "%s: no pictures: expected PNG, JPEG or WebP files of the subject",
                 folder));
    TRY(captions(out, folder, name, n));
    TRY(masks(out, folder, name, n));
    for (int i = 0; i < out->n; i++)
        if (out->it[i].text < 0) TRY(instances_add_text(out, prompt, &out->it[i].text));
out:
    if (st != OK) instances_close(out);
    return st;
}

void instances_close(instance_set *s) {
    arena_fini(&s->mem);
    *s = (instance_set){0};
}

status instance_size(const instance *i, int *w, int *h) {
    image im = {0};
    status st = image_load(i->path, &im);
    *w = im.w, *h = im.h;
    image_free(&im);
    return st;
}

static uint8_t sample_of(const image *im, int x, int y, int c, bool flip) {
    return im->px[(y * im->w + (flip ? im->w - 1 - x : x)) * im->channels + c];
}

status instance_load(const instance *i, int w, int h, bool flip, float *px) {
    static const uint8_t white[3] = {255, 255, 255};
    status st = OK;
    image im = {0}, fitted = {0};
    TRY(image_load(i->path, &im));
    TRY(image_flatten(&im, white));
    TRY(image_fit_to(&im, w, h, FIT_CROP, white, &fitted));
    for (int k = 0; k < w * h * 3; k++)
        px[k] = image_unit(sample_of(&fitted, k / 3 % w, k / 3 / w, k % 3, flip));
out:
    image_free(&im);
    image_free(&fitted);
    return st;
}

status instance_load_mask(const instance *i, int w, int h, bool flip, float *m) {
    static const uint8_t black[3] = {0};
    status st = OK;
    image im = {0}, fitted = {0};
    int of_w, of_h;
    double sum = 0;
    for (int k = 0; k < w * h; k++) m[k] = 1;
    if (!i->mask) return OK;
    TRY(instance_size(i, &of_w, &of_h));
    TRY(image_load(i->mask, &im));
    if (im.w != of_w || im.h != of_h)
        TRY(fail(E_SHAPE, "%s is %dx%d, its picture %dx%d: expected one size", i->mask, im.w, im.h,
                 of_w, of_h));
    TRY(image_flatten(&im, black));
    TRY(image_fit_to(&im, w, h, FIT_CROP, black, &fitted));
    for (int k = 0; k < w * h; k++) {
        int rgb = 0;
        for (int c = 0; c < 3; c++) rgb += sample_of(&fitted, k % w, k / w, c, flip);
        m[k] = (float)rgb / 765.0f;
        sum += (double)m[k];
    }
    if (sum <= 0) TRY(fail(E_FORMAT, "%s: all black: white is what shall be learned", i->mask));
out:
    image_free(&im);
    image_free(&fitted);
    return st;
}

/* A picture's place in an epoch is how many pictures drew a smaller number. */
int instance_of(uint32_t seed, uint64_t sample, int n) {
    rng_key key = {{seed, 0}, rng_stream("order of pictures")};
    uint64_t epoch = sample / (uint64_t)n, place = sample % (uint64_t)n;
    for (int i = 0; i < n; i++) {
        double mine = rng_uniform(key, epoch, (uint64_t)i);
        uint64_t before = 0;
        for (int k = 0; k < n; k++) {
            double other = rng_uniform(key, epoch, (uint64_t)k);
            before += other < mine || (k < i && other == mine);
        }
        if (before == place) return i;
    }
    return 0; /* not reached: the places are a permutation */
}
