/* webp.c: WebP by libwebp, which allocates by itself; the picture is decoded into our memory.
 * SPDX-License-Identifier: MIT */
#include "file/image_internal.h"

#include <webp/decode.h>

#define RIFF_HEADER ((size_t)12)

bool is_webp(const uint8_t *data, size_t bytes) {
    return bytes >= RIFF_HEADER && !memcmp(data, "RIFF", 4) && !memcmp(data + 8, "WEBP", 4);
}

static int find_orientation(const uint8_t *data, size_t bytes) {
    for (size_t at = RIFF_HEADER; bytes - at >= 8;) {
        const uint8_t *p = data + at + 4;
        size_t n = p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
        size_t rest = bytes - at - 8;
        if (n > rest) break;
        if (!memcmp(data + at, "EXIF", 4)) return exif_orientation(data + at + 8, n);
        at += 8 + MIN(n + (n & 1), rest); /* chunks are padded to even sizes */
    }
    return 1;
}

static const char *reason(VP8StatusCode code) {
    switch (code) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "truncated";
    case VP8_STATUS_OUT_OF_MEMORY:
        return "no memory to decode it";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "a kind of WebP that libwebp does not know";
    case VP8_STATUS_OK:
    case VP8_STATUS_INVALID_PARAM:
    case VP8_STATUS_BITSTREAM_ERROR:
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_USER_ABORT:
        break;
    }
    return "damaged";
}

static status webp_fail(const char *what, VP8StatusCode code) {
    return fail(code == VP8_STATUS_OUT_OF_MEMORY         ? E_HOST_MEMORY
                : code == VP8_STATUS_UNSUPPORTED_FEATURE ? E_UNSUPPORTED
                                                         : E_FORMAT,
                "%s: WebP: %s", what, reason(code));
}

status webp_decode(const uint8_t *data, size_t bytes, const char *what, image *out,
                   int *orientation) {
    status st = OK;
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return fail(E_UNSUPPORTED, "the libwebp at hand is not the one that imago was built with");
    VP8StatusCode code = WebPGetFeatures(data, bytes, &config.input);
    if (code != VP8_STATUS_OK) return webp_fail(what, code);
    if (config.input.has_animation)
        return fail(E_UNSUPPORTED, "%s: an animated WebP: give one of its pictures", what);
    TRY(image_check_size(what, (uint64_t)config.input.width, (uint64_t)config.input.height));
    TRY(image_create(config.input.width, config.input.height, config.input.has_alpha ? 4 : 3, out));
    config.output.colorspace = config.input.has_alpha ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = out->px;
    config.output.u.RGBA.stride = out->w * out->channels;
    config.output.u.RGBA.size = (size_t)out->w * (size_t)out->h * (size_t)out->channels;
    code = WebPDecode(data, bytes, &config);
    WebPFreeDecBuffer(&config.output);
    if (code != VP8_STATUS_OK) {
        st = webp_fail(what, code);
        goto out;
    }
    *orientation = find_orientation(data, bytes);
out:
    return st;
}
