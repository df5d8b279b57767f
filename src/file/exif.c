/* exif.c: the one thing in EXIF that a picture cannot be shown without: how it lies. EXIF is a TIFF
 * file inside the picture: byte order, then a list of 12-byte entries in the first directory. Any
 * nonsense means upright: damaged metadata must not cost the picture.
 * SPDX-License-Identifier: MIT */
#include "file/image_internal.h"

enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3 };

static uint32_t number(const uint8_t *p, int bytes, bool big) {
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) v = v << 8 | p[big ? i : bytes - 1 - i];
    return v;
}

int exif_orientation(const uint8_t *data, size_t bytes) {
    if (bytes >= 6 && !memcmp(data, "Exif\0\0", 6))
        data += 6, bytes -= 6; /* JPEG always, WebP by some writers */
    if (bytes < 8 || (memcmp(data, "MM\0*", 4) && memcmp(data, "II*\0", 4))) return 1;
    bool big = data[0] == 'M';
    size_t at = number(data + 4, 4, big);
    if (at > bytes - 2) return 1;
    size_t n = number(data + at, 2, big);
    at += 2;
    for (; n && bytes - at >= 12; n--, at += 12) {
        const uint8_t *e = data + at;
        if (number(e, 2, big) != TAG_ORIENTATION) continue;
        uint32_t value = number(e + 8, 2, big);
        return number(e + 2, 2, big) == TYPE_SHORT && value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}
