/* webp_write.c: animated WebP by libwebp and libwebpmux, which allocate by themselves. Lossy: frames of a morph are pictures.
 * SPDX-License-Identifier: MIT */
#include "file/image.h"

#include <webp/encode.h>
#include <webp/mux.h>

#define QUALITY 90.0f /* of 100 */

struct webp_animation {
    WebPAnimEncoder *encoder;
    WebPConfig config;
    int w, h, at_ms;
};

status webp_animation_open(int w, int h, webp_animation **out) {
    status st = OK;
    WebPAnimEncoderOptions options;
    *out = NULL;
    if (w < 1 || h < 1 || w > WEBP_MAX_DIMENSION || h > WEBP_MAX_DIMENSION)
        return fail(E_UNSUPPORTED, "an animated WebP of %dx%d: sides of 1 to %d are possible", w, h,
                    WEBP_MAX_DIMENSION);
    webp_animation *a = mem_zalloc(sizeof *a);
    if (!a) return fail(E_HOST_MEMORY, "no host memory for an animated WebP");
    a->w = w, a->h = h;
    if (!WebPAnimEncoderOptionsInit(&options) || !WebPConfigInit(&a->config))
        TRY(fail(E_UNSUPPORTED,
                 "the libwebp at hand is not the one that imago was built with"));
    a->config.quality = QUALITY;
    a->encoder = WebPAnimEncoderNew(w, h, &options);
    if (!a->encoder) TRY(fail(E_HOST_MEMORY, "no host memory for an animated WebP"));
    *out = a;
    a = NULL;
out:
    webp_animation_close(a);
    return st;
}

void webp_animation_close(webp_animation *a) {
    if (!a) return;
    if (a->encoder) WebPAnimEncoderDelete(a->encoder);
    mem_free(a);
}

status webp_animation_add(webp_animation *a, const image *im, int ms) {
    status st = OK;
    WebPPicture pic;
    if (im->w != a->w || im->h != a->h || im->channels != 3)
        return fail(E_SHAPE, "animated WebP: a frame of %dx%d and %d channels, expected %dx%d and 3",
                    im->w, im->h, im->channels, a->w, a->h);
    if (!WebPPictureInit(&pic))
        return fail(E_UNSUPPORTED, "the libwebp at hand is not the one that imago was built with");
    pic.use_argb = 1;
    pic.width = im->w, pic.height = im->h;
    if (!WebPPictureImportRGB(&pic, im->px, im->w * 3))
        TRY(fail(E_HOST_MEMORY, "no host memory for a frame of %dx%d", im->w, im->h));
    if (!WebPAnimEncoderAdd(a->encoder, &pic, a->at_ms, &a->config))
        TRY(fail(E_HOST_MEMORY, "animated WebP: %s", WebPAnimEncoderGetError(a->encoder)));
    a->at_ms += ms;
out:
    WebPPictureFree(&pic);
    return st;
}

status webp_animation_save(webp_animation *a, const char *path) {
    status st = OK;
    WebPData data;
    WebPDataInit(&data);
    if (!WebPAnimEncoderAdd(a->encoder, NULL, a->at_ms, NULL) ||
        !WebPAnimEncoderAssemble(a->encoder, &data))
        TRY(fail(E_HOST_MEMORY, "animated WebP: %s", WebPAnimEncoderGetError(a->encoder)));
    TRY(file_write_atomic(path, data.bytes, data.size));
out:
    WebPDataClear(&data);
    return st;
}
