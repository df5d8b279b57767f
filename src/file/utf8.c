/* utf8.c: is this text what other readers accept?
 * SPDX-License-Identifier: MIT */
#include "file/utf8.h"

bool is_utf8(const char *text_) {
    const uint8_t *s = (const uint8_t *)text_;
    while (*s) {
        if (*s < 0x80) {
            s++;
            continue;
        }
        int more = *s >= 0xf0 ? 3 : *s >= 0xe0 ? 2 : 1;
        if (*s < 0xc2 || *s > 0xf4) return false;
        uint8_t lo = *s == 0xe0   ? 0xa0
                     : *s == 0xf0 ? 0x90
                                  : 0x80,
                hi = *s == 0xed   ? 0x9f
                     : *s == 0xf4 ? 0x8f
                                  : 0xbf;
        if (s[1] < lo || s[1] > hi) return false;
        for (int i = 2; i <= more; i++)
            if ((s[i] & 0xc0) != 0x80) return false;
        s += more + 1;
    }
    return true;
}
