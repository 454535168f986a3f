/*
 * fpu_native.h - runs an FP or SIMD instruction on the bare CPU, with a given state; random states.
 */
#ifndef FPU_NATIVE_H
#define FPU_NATIVE_H

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "fpu_rig.h"

struct native {
    u64 reg[16]; /* RSP is not loaded */
    u64 flags;
    struct rig_image image;
};

static u8 *native_code; /* a page for it, by native_init() */

static inline void native_init(void)
{
    native_code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native_code == MAP_FAILED)
        abort();
}

static inline unsigned put(unsigned at, const void *p, unsigned n)
{
    memcpy(native_code + at, p, n);
    return at + n;
}

#define PUTB(...) at = put(at, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* mov reg, [r15 + 8 * reg] and back, for all but RSP and R15 */
static inline unsigned put_regs(unsigned at, bool store)
{
    for (unsigned n = 0; n < 15; n++)
        if (n != RSP)
            PUTB(n & 8 ? 0x4d : 0x49, store ? 0x89 : 0x8b, 0x47 | (n & 7) << 3, (u8)(8 * n));
    return at;
}

/* Runs code[0..len) on the bare CPU with the state of *s; R15 is taken. mask: XCR0 bits. */
static inline void run_native(struct native *s, const u8 *code, unsigned len, u64 mask)
{
    unsigned at = 0;
    u32 img = offsetof(struct native, image), fl = offsetof(struct native, flags), m = (u32)mask;
    const u8 *i = (const u8 *)&img, *f = (const u8 *)&fl, *k = (const u8 *)&m;
    PUTB(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); /* push callee-saved */
    PUTB(0x49, 0x89, 0xff, 0xb8, k[0], k[1], k[2], k[3], 0x31, 0xd2); /* r15 = rdi; edx:eax */
    PUTB(0x49, 0x0f, 0xae, 0xaf, i[0], i[1], i[2], i[3]);             /* xrstor64 */
    PUTB(0x41, 0xff, 0xb7, f[0], f[1], f[2], f[3], 0x9d);             /* push flags; popf */
    at = put_regs(at, false);
    at = put(at, code, len);
    at = put_regs(at, true);
    PUTB(0x9c, 0x41, 0x8f, 0x87, f[0], f[1], f[2], f[3]); /* pushf; pop flags */
    PUTB(0xb8, k[0], k[1], k[2], k[3], 0x31, 0xd2);
    PUTB(0x49, 0x0f, 0xae, 0xa7, i[0], i[1], i[2], i[3]); /* xsave64 */
    PUTB(0xdb, 0xe3, 0xfc);                               /* fninit; cld */
    PUTB(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);
    void (*fn)(struct native *) = (void (*)(struct native *))(void *)native_code;
    u32 mxcsr = 0x1f80;
    fn(s);
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

/* Signals of code that the bare CPU refuses, as the vector it raised. */
static sigjmp_buf native_escape;

static inline void on_native_fault(int sig, siginfo_t *si, void *uc)
{
    siglongjmp(native_escape, 256 + (int)((ucontext_t *)uc)->uc_mcontext.gregs[REG_TRAPNO]);
}

static const int native_signals[] = {SIGILL, SIGSEGV, SIGFPE};

/* run_native(); the vector, or -1. */
static inline int try_native(struct native *s, const u8 *code, unsigned len, u64 mask)
{
    struct sigaction sa = {.sa_sigaction = on_native_fault, .sa_flags = SA_SIGINFO}, was[3];
    const u32 mxcsr = 0x1f80;
    for (unsigned n = 0; n < 3; n++)
        sigaction(native_signals[n], &sa, &was[n]);
    int vec = sigsetjmp(native_escape, 1);
    if (vec == 0)
        run_native(s, code, len, mask);
    __asm__ volatile("fninit; ldmxcsr %0; cld" : : "m"(mxcsr));
    for (unsigned n = 0; n < 3; n++)
        sigaction(native_signals[n], &was[n], NULL);
    return vec ? vec - 256 : -1;
}

/* --- random states --- */

static u64 rnd_state = 88172645463325252ull;

static inline u64 rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state;
}

/* Mostly numbers that mean something as floats, with oddities. */
static inline void rnd_fill(u8 *p, unsigned n)
{
    for (unsigned at = 0; at + 8 <= n; at += 8) {
        u64 v = rnd();
        float f[2] = {(float)(s32)v / 65536, (float)(s32)(v >> 32) / 1024};
        double d = (double)(s64)v / 1e12;
        if (v % 5 == 0)
            memcpy(p + at, f, 8);
        else if (v % 5 == 1)
            memcpy(p + at, &d, 8);
        else
            memcpy(p + at, &v, 8);
    }
}

static inline void rnd_image(struct rig *r, struct rig_image *im)
{
    memset(im, 0, sizeof *im);
    rnd_fill(im->b + 160, 256);
    for (unsigned n = 2; n < 16; n++)
        rnd_fill(im->b + rig_offset(r, n), rig_len(r, n));
    *(u64 *)(im->b + 512) = cpu_xcr0_valid(r->c);
    *(u16 *)im->b = 0x37f;
    *(u32 *)(im->b + 24) = 0x1f80;
    im->b[4] = 0xff;
    for (unsigned n = 0; n < 8; n++) {
        long double v = (long double)(s64)rnd() / (long double)(1ull << (rnd() % 63));
        memcpy(im->b + 32 + 16 * n, &v, 10);
    }
    /* indices of gathers: 0..255 in YMM15/ZMM15 */
    for (unsigned n = 0; n < 16; n++) {
        u8 *p = n < 4   ? im->b + 160 + 16 * 15 + 4 * n
                : n < 8 ? im->b + rig_offset(r, 2) + 16 * 15 + 4 * (n - 4)
                        : im->b + rig_offset(r, 6) + 32 * 15 + 4 * (n - 8);
        if ((n < 4 || rig_offset(r, 2)) && (n < 8 || rig_offset(r, 6)))
            *(u32 *)p = n & 1 ? 0 : (u32)rnd() & 255;
    }
}

#endif
