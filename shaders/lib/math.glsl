/* math.glsl: functions GLSL lacks, or leaves too free in precision. The formulas of op/vmath.h.
 * SPDX-License-Identifier: MIT */
float sigmoid_(float x) { return 1.0 / (1.0 + exp(-x)); }

/* |error| < 3e-7, with exp as Vulkan asks for */
float erf_(float x) {
    float a = abs(x), z = x * x;
    if (a < 1.0) {
        float p = 7.88911930e-05;
        p = p * z - 0.000802084105;
        p = p * z + 0.00518953521;
        p = p * z - 0.0268544443;
        p = p * z + 0.112836003;
        p = p * z - 0.376126260;
        return x * (p * z + 1.12837911);
    }
    float b = min(a, 4.0), q = -0.000185574900;
    q = q * b + 0.00293961587;
    q = q * b - 0.0218053516;
    q = q * b + 0.103037439;
    q = q * b + 0.638225615;
    q = q * b + 1.12704003;
    q = q * b + 0.000353708921;
    float large = 1.0 - exp(-q);
    return x < 0.0 ? -large : large;
}

float tanh_(float x) {
    float a = abs(x), z = x * x;
    if (a < 0.625) {
        float p = -0.00571703631;
        p = p * z + 0.0206505787;
        p = p * z - 0.0537434965;
        p = p * z + 0.133314908;
        p = p * z - 0.333332837;
        return p * z * x + x;
    }
    float large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    return x < 0.0 ? -large : large;
}

/* the normal distribution: P(X < x) and its density */
float normal_cdf(float x) { return 0.5 + 0.5 * erf_(x * 0.70710678118654752); }
float normal_pdf(float x) { return 0.3989422804014327 * exp(-0.5 * x * x); }
