/* utf8.h: names and notes that are written must be readable by others.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/base.h"

bool is_utf8(const char *text); /* RFC 3629: no surrogates, no overlong forms */
