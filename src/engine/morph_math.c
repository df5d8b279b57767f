/* morph_math.c: what happens to latents between network calls of a morph. Latents are small: a plain DFT per row and column
 * in double is milliseconds, and takes any size.
 * SPDX-License-Identifier: MIT */
#include "engine/morph.h"
#include <math.h>

#define PI 3.14159265358979323846

/* ---- slerp ---- */
void morph_slerp(const float *a, const float *b, double share, int h, int w, int c, float *out) {
    for (int r = 0; r < h * c; r++) {
        size_t at = (size_t)(r / c) * (size_t)(w * c) + (size_t)(r % c);
        double ab = 0, aa = 0, bb = 0, fa = 1 - share, fb = share;
        for (int i = 0; i < w; i++) {
            double x = (double)a[at + (size_t)(i * c)], y = (double)b[at + (size_t)(i * c)];
            ab += x * y, aa += x * x, bb += y * y;
        }
        double d = ab / sqrt(aa * bb), angle = acos(d);
        if (fabs(d) <= 0.9995) fa = sin((1 - share) * angle) / sin(angle), fb = sin(share * angle) / sin(angle); /* false for NaN */
        for (int i = 0; i < w; i++) {
            size_t k = at + (size_t)(i * c);
            out[k] = (float)(fa * (double)a[k] + fb * (double)b[k]);
        }
    }
}

/* ---- blend weights ---- */
#define BETA_A 20 /* AID's selection prior, as FreeMorph fixes it */

/* I_x(a, a) for whole a: the chance of a or more heads in 2a - 1 throws. */
static double beta_cdf(double x) {
    int n = 2 * BETA_A - 1;
    double sum = 0, choose = 1;
    for (int k = 0; k <= n; k++) {
        if (k >= BETA_A) sum += choose * pow(x, k) * pow(1 - x, n - k);
        choose = choose * (n - k) / (k + 1);
    }
    return sum;
}

double morph_blend(double share) {
    double low = 0, high = 1;
    if (share <= 0 || share >= 1) return share <= 0 ? 0 : 1;
    for (int i = 0; i < 60; i++) {
        double mid = 0.5 * (low + high);
        if (beta_cdf(mid) < share) low = mid;
        else high = mid;
    }
    return 0.5 * (low + high);
}

/* ---- levels ---- */
static double angle_of(double abar) { return acos(sqrt(MIN(MAX(abar, 0), 1))); }

status morph_ladder(const schedule_config *c, int n, double strength, level *at) {
    status st = OK;
    int last = c->num_train_timesteps - 1, top = MAX((int)lround(strength * last), 1), t = 0;
    double *abar = mem_alloc(sizeof *abar * (size_t)c->num_train_timesteps);
    if (!abar) return fail(E_HOST_MEMORY, "no host memory for a schedule");
    TRY(schedule_alphas_cumprod(c, abar));
    if (n > top) TRY(fail(E_USAGE, "%d steps: this model has %d times up to there", n, top));
    if (c->prediction_type == PREDICTION_EPSILON && !(abar[top] > 0))
        TRY(fail(E_UNSUPPORTED, "strength %g: at its end nothing of the picture is left, which an epsilon model cannot undo: choose a lower one", strength));
    double low = angle_of(abar[0]), step = (angle_of(abar[top]) - low) / n;
    at[0] = schedule_level(c, abar, 0);
    for (int i = 1; i <= n; i++) {
        /* the whole time nearest to the angle, and one left for every step to come */
        for (t++; t < top - (n - i) && fabs(angle_of(abar[t + 1]) - low - i * step) <= fabs(angle_of(abar[t]) - low - i * step);) t++;
        at[i] = schedule_level(c, abar, t);
    }
out:
    mem_free(abar);
    return st;
}

morph_update morph_down(prediction p, level from, level to) {
    double wx, wp, keep = to.sigma / from.sigma, x0 = to.alpha - keep * from.alpha;
    prediction_to_x0(p, from, &wx, &wp);
    return (morph_update){from.t, keep + x0 * wx, x0 * wp};
}

morph_update morph_up(prediction p, level from, level to) {
    morph_update down = morph_down(p, to, from);
    return (morph_update){to.t, 1 / down.x, -down.y / down.x};
}

void morph_even(const double *gap, const double *at, int m, int n, double *share) {
    double sum = 0, passed = 0;
    for (int i = 0; i < m; i++) sum += gap[i];
    share[0] = at[0], share[n] = at[m];
    for (int f = 1, i = 0; f < n; f++) {
        double want = sum * f / n;
        while (i < m - 1 && passed + gap[i] < want) passed += gap[i++];
        share[f] = sum > 0 ? at[i] + (at[i + 1] - at[i]) * MIN((want - passed) / gap[i], 1) : (double)f / n;
    }
}

/* ---- injection ---- */
double morph_keep(int j, int frames) {
    /* 44 and 42 of 48: the released list is made for nine frames and symmetric, but read from its start for seven */
    bool beside = j == 1 || (j == frames - 2 && frames != 7);
    return j == 0 || j == frames - 1 ? 1.0 : beside ? 44.0 / 48 : 42.0 / 48;
}

int morph_cut(int n, double keep) {
    int half = (n + 1) / 2; /* of an odd size: so that a share of 1 keeps all */
    return keep >= 1 ? half : MAX(MIN((int)lround(keep * half), half - 1), 0); /* a share below 1 never keeps all */
}

static bool inside(int f, int cut) { return f >= -cut && f < cut; }

/* How much of frequency (a, b) is kept. The block holds -cut but not +cut; the real part of the inverse transform then
 * averages the mask with its mirror image. At -n/2 of an even size the mirror is the same frequency. */
static double kept(int a, int b, int h, int w, int cut_h, int cut_w) {
    int ma = 2 * a == -h ? a : -a, mb = 2 * b == -w ? b : -b;
    return 0.5 * ((inside(a, cut_h) && inside(b, cut_w)) + (inside(ma, cut_h) && inside(mb, cut_w)));
}

/* n complex numbers `stride` apart, in place; sign -1 forward, +1 backward (unscaled). turn: cos and sin of 2 pi i/n. */
static void dft(double *x, int n, size_t stride, int sign, const double *turn, double *work) {
    for (int k = 0; k < n; k++) {
        double re = 0, im = 0;
        for (int i = 0; i < n; i++) {
            const double *e = turn + 2 * (size_t)((int64_t)i * k % n), *v = x + 2 * (size_t)i * stride;
            re += v[0] * e[0] - sign * v[1] * e[1];
            im += v[1] * e[0] + sign * v[0] * e[1];
        }
        work[2 * k] = re, work[2 * k + 1] = im;
    }
    for (int k = 0; k < n; k++) x[2 * (size_t)k * stride] = work[2 * k], x[2 * (size_t)k * stride + 1] = work[2 * k + 1];
}

static void fill_turns(double *turn, int n) {
    for (int i = 0; i < n; i++) turn[2 * i] = cos(2 * PI * i / n), turn[2 * i + 1] = sin(2 * PI * i / n);
}

static void dft_2d(double *x, int h, int w, int sign, const double *turn_h, const double *turn_w, double *work) {
    for (int r = 0; r < h; r++) dft(x + 2 * (size_t)r * (size_t)w, w, 1, sign, turn_w, work);
    for (int k = 0; k < w; k++) dft(x + 2 * (size_t)k, h, (size_t)w, sign, turn_h, work);
}

status morph_inject(float *x, const float *noise, double keep, int h, int w, int c) {
    size_t area = (size_t)h * (size_t)w, longest = (size_t)MAX(h, w);
    int cut_h = morph_cut(h, keep), cut_w = morph_cut(w, keep);
    double *z = mem_alloc(sizeof *z * 2 * (area + 3 * longest));
    if (!z) return fail(E_HOST_MEMORY, "no host memory for the spectrum of a latent of %dx%d", w, h);
    double *turn_h = z + 2 * area, *turn_w = turn_h + 2 * longest, *work = turn_w + 2 * longest;
    fill_turns(turn_h, h);
    fill_turns(turn_w, w);
    for (int k = 0; k < c; k++) {
        /* one transform: noise + keep of (x - noise) */
        for (size_t i = 0; i < area; i++) {
            size_t at = i * (size_t)c + (size_t)k;
            z[2 * i] = (double)x[at] - (double)noise[at], z[2 * i + 1] = 0;
        }
        dft_2d(z, h, w, -1, turn_h, turn_w, work);
        for (int r = 0; r < h; r++)
            for (int s = 0; s < w; s++) {
                int a = r < (h + 1) / 2 ? r : r - h, b = s < (w + 1) / 2 ? s : s - w;
                double m = kept(a, b, h, w, cut_h, cut_w) / (double)area;
                z[2 * ((size_t)r * (size_t)w + (size_t)s)] *= m, z[2 * ((size_t)r * (size_t)w + (size_t)s) + 1] *= m;
            }
        dft_2d(z, h, w, 1, turn_h, turn_w, work);
        for (size_t i = 0; i < area; i++) x[i * (size_t)c + (size_t)k] = (float)((double)noise[i * (size_t)c + (size_t)k] + z[2 * i]);
    }
    mem_free(z);
    return OK;
}
