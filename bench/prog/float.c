/*
 * float.c - floating point and vectors.
 */
#include "bench.h"
#include <immintrin.h>
#include <string.h>

#define N 32 /* matrices are N by N */

struct matrices {
    double a[N][N], b[N][N], c[N][N];
    float fa[N][N], fb[N][N], fc[N][N];
};

static const char *matrix_setup(struct bench *b)
{
    bench_mem(b, sizeof(struct matrices));
    struct matrices *m = b->data;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            m->fa[i][k] = m->a[i][k] = (i * 7 + k * 3) % 11;
            m->fb[i][k] = m->b[i][k] = (i * 5 + k * 2) % 13;
        }
    return NULL;
}

/* --- SSE2 --- */

__attribute__((target("sse2"))) static NOINLINE void product_sse2(struct matrices *m)
{
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k += 2) {
            __m128d sum = _mm_setzero_pd();
            for (int j = 0; j < N; j++)
                sum =
                    _mm_add_pd(sum, _mm_mul_pd(_mm_set1_pd(m->a[i][j]), _mm_loadu_pd(&m->b[j][k])));
            _mm_storeu_pd(&m->c[i][k], sum);
        }
}

static const char *sse2_setup(struct bench *b)
{
    return __builtin_cpu_supports("sse2") ? matrix_setup(b) : "the CPU has no SSE2";
}

static u64 sse2_run(struct bench *b, u64 n)
{
    struct matrices *m = b->data;
    while (bench_again(b, &n))
        product_sse2(m);
    return m->c[3][4];
}

/* --- AVX2 and FMA --- */

__attribute__((target("avx2,fma"))) static NOINLINE void product_fma(struct matrices *m)
{
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k += 16) {
            __m256 s0 = _mm256_setzero_ps(), s1 = s0;
            for (int j = 0; j < N; j++) {
                __m256 a = _mm256_set1_ps(m->fa[i][j]);
                s0 = _mm256_fmadd_ps(a, _mm256_loadu_ps(&m->fb[j][k]), s0);
                s1 = _mm256_fmadd_ps(a, _mm256_loadu_ps(&m->fb[j][k + 8]), s1);
            }
            _mm256_storeu_ps(&m->fc[i][k], s0);
            _mm256_storeu_ps(&m->fc[i][k + 8], s1);
        }
    _mm256_zeroupper();
}

static const char *fma_setup(struct bench *b)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return "the CPU has no AVX2 with FMA";
    return matrix_setup(b);
}

static u64 fma_run(struct bench *b, u64 n)
{
    struct matrices *m = b->data;
    while (bench_again(b, &n))
        product_fma(m);
    return m->fc[3][4];
}

/* --- integer vectors: sums of absolute differences, shuffles --- */

#define VEC_SIZE 4096

__attribute__((target("sse4.1"))) static NOINLINE u64 vector_sum(const u8 *p)
{
    const __m128i reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m128i sum = _mm_setzero_si128(), max = sum;
    for (int i = 0; i < VEC_SIZE; i += 32) {
        __m128i x = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i y = _mm_loadu_si128((const __m128i *)(p + i + 16));
        sum = _mm_add_epi64(sum, _mm_sad_epu8(x, _mm_shuffle_epi8(y, reverse)));
        max = _mm_max_epu8(max, _mm_min_epu8(x, y));
    }
    sum = _mm_add_epi64(sum, _mm_sad_epu8(max, _mm_setzero_si128()));
    u64 part[2];
    _mm_storeu_si128((__m128i *)part, sum);
    return part[0] + part[1];
}

static const char *vector_setup(struct bench *b)
{
    if (!__builtin_cpu_supports("sse4.1"))
        return "the CPU has no SSE4.1";
    bench_mem(b, VEC_SIZE);
    bench_text(b->mem, VEC_SIZE);
    return NULL;
}

static u64 vector_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n))
        sum = vector_sum(b->mem);
    return sum;
}

/* --- x87 --- */

static NOINLINE long double polynomial(const double *c, int n, long double x)
{
    long double sum = 0;
    for (int i = 0; i < n; i++)
        sum = sum * x + c[i];
    return sum;
}

static const char *x87_setup(struct bench *b)
{
    bench_mem(b, 64 * sizeof(double));
    double *c = b->data;
    for (int i = 0; i < 64; i++)
        c[i] = 1.0 / (i + 1);
    return NULL;
}

static u64 x87_run(struct bench *b, u64 n)
{
    long double sum = 0;
    while (bench_again(b, &n)) {
        sum = 0;
        for (int i = 0; i < 32; i++) {
            long double x = polynomial(b->data, 64, i / 40.0L), root;
            __asm__("fsqrt" : "=t"(root) : "0"(x));
            sum += root;
        }
    }
    return sum * 1e12L;
}

/* --- n-body: scalar doubles, square roots and divisions --- */

#define BODIES 5

struct body {
    double x[3], v[3], mass;
};

static void advance(struct body *bodies, double dt)
{
    for (int i = 0; i < BODIES; i++)
        for (int k = i + 1; k < BODIES; k++) {
            struct body *a = &bodies[i], *b = &bodies[k];
            double d[3], square = 0.01;
            for (int c = 0; c < 3; c++) {
                d[c] = a->x[c] - b->x[c];
                square += d[c] * d[c];
            }
            double f = dt / (square * __builtin_sqrt(square));
            for (int c = 0; c < 3; c++) {
                a->v[c] -= d[c] * b->mass * f;
                b->v[c] += d[c] * a->mass * f;
            }
        }
    for (int i = 0; i < BODIES; i++)
        for (int c = 0; c < 3; c++)
            bodies[i].x[c] += dt * bodies[i].v[c];
}

static u64 nbody_run(struct bench *b, u64 n)
{
    struct body bodies[BODIES];
    while (bench_again(b, &n)) {
        for (int i = 0; i < BODIES; i++)
            bodies[i] = (struct body){{i, i * 2 % 5, i * 3 % 7}, {i * 0.1, 0.2, -0.1}, 1 + i};
        for (int step = 0; step < 100; step++)
            advance(bodies, 0.001);
    }
    return bodies[0].x[0] * 1e9 + bodies[4].x[2] * 1e9;
}

const struct bench_case float_cases[] = {
    {"sse2", "fp", "product of 32x32 doubles, SSE2", sse2_setup, sse2_run, bench_mem_end},
    {"fma", "fp", "product of 32x32 floats, AVX2 and FMA", fma_setup, fma_run, bench_mem_end},
    {"vector", "fp", "byte sums and shuffles over 4 KiB, SSE4.1", vector_setup, vector_run,
     bench_mem_end},
    {"x87", "fp", "32 polynomials of degree 63, 80-bit", x87_setup, x87_run, bench_mem_end},
    {"nbody", "fp", "100 steps of five bodies, scalar doubles", NULL, nbody_run, NULL},
    {0},
};
