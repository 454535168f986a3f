/*
 * cpu_features.c - the CPU model as a user asks for it: "host,-x2apic,vendor=AuthenticAMD".
 *
 * Only what guests can do without has a name here: features that every 64-bit kernel takes for
 * granted (SSE2, PAE, CMPXCHG8B and so on) cannot be left out.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_cpuid.h"

/* QEMU's and Linux's names. ORDER FEATURE_NAMES */
#define FEATURES(F)                                                                                \
    F("sse3", 1, 0, ECX, 0)                                                                        \
    F("pclmulqdq", 1, 0, ECX, 1)                                                                   \
    F("ssse3", 1, 0, ECX, 9)                                                                       \
    F("fma", 1, 0, ECX, 12)                                                                        \
    F("cx16", 1, 0, ECX, 13)                                                                       \
    F("pcid", 1, 0, ECX, 17)                                                                       \
    F("sse4.1", 1, 0, ECX, 19)                                                                     \
    F("sse4.2", 1, 0, ECX, 20)                                                                     \
    F("x2apic", 1, 0, ECX, 21)                                                                     \
    F("movbe", 1, 0, ECX, 22)                                                                      \
    F("popcnt", 1, 0, ECX, 23)                                                                     \
    F("tsc-deadline", 1, 0, ECX, 24)                                                               \
    F("aes", 1, 0, ECX, 25)                                                                        \
    F("xsave", 1, 0, ECX, 26)                                                                      \
    F("avx", 1, 0, ECX, 28)                                                                        \
    F("f16c", 1, 0, ECX, 29)                                                                       \
    F("rdrand", 1, 0, ECX, 30)                                                                     \
    F("hypervisor", 1, 0, ECX, 31)                                                                 \
    F("fsgsbase", 7, 0, EBX, 0)                                                                    \
    F("tsc-adjust", 7, 0, EBX, 1)                                                                  \
    F("bmi1", 7, 0, EBX, 3)                                                                        \
    F("avx2", 7, 0, EBX, 5)                                                                        \
    F("smep", 7, 0, EBX, 7)                                                                        \
    F("bmi2", 7, 0, EBX, 8)                                                                        \
    F("erms", 7, 0, EBX, 9)                                                                        \
    F("invpcid", 7, 0, EBX, 10)                                                                    \
    F("avx512f", 7, 0, EBX, 16)                                                                    \
    F("avx512dq", 7, 0, EBX, 17)                                                                   \
    F("rdseed", 7, 0, EBX, 18)                                                                     \
    F("adx", 7, 0, EBX, 19)                                                                        \
    F("smap", 7, 0, EBX, 20)                                                                       \
    F("avx512ifma", 7, 0, EBX, 21)                                                                 \
    F("clflushopt", 7, 0, EBX, 23)                                                                 \
    F("clwb", 7, 0, EBX, 24)                                                                       \
    F("avx512cd", 7, 0, EBX, 28)                                                                   \
    F("sha-ni", 7, 0, EBX, 29)                                                                     \
    F("avx512bw", 7, 0, EBX, 30)                                                                   \
    F("avx512vl", 7, 0, EBX, 31)                                                                   \
    F("avx512vbmi", 7, 0, ECX, 1)                                                                  \
    F("umip", 7, 0, ECX, 2)                                                                        \
    F("avx512-vbmi2", 7, 0, ECX, 6)                                                                \
    F("gfni", 7, 0, ECX, 8)                                                                        \
    F("vaes", 7, 0, ECX, 9)                                                                        \
    F("vpclmulqdq", 7, 0, ECX, 10)                                                                 \
    F("avx512-vnni", 7, 0, ECX, 11)                                                                \
    F("avx512-bitalg", 7, 0, ECX, 12)                                                              \
    F("avx512-vpopcntdq", 7, 0, ECX, 14)                                                           \
    F("rdpid", 7, 0, ECX, 22)                                                                      \
    F("movdiri", 7, 0, ECX, 27)                                                                    \
    F("movdir64b", 7, 0, ECX, 28)                                                                  \
    F("fsrm", 7, 0, EDX, 4)                                                                        \
    F("avx512-vp2intersect", 7, 0, EDX, 8)                                                         \
    F("serialize", 7, 0, EDX, 14)                                                                  \
    F("avx512-fp16", 7, 0, EDX, 23)                                                                \
    F("spec-ctrl", 7, 0, EDX, 26)                                                                  \
    F("stibp", 7, 0, EDX, 27)                                                                      \
    F("arch-capabilities", 7, 0, EDX, 29)                                                          \
    F("ssbd", 7, 0, EDX, 31)                                                                       \
    F("avx-vnni", 7, 1, EAX, 4)                                                                    \
    F("avx512-bf16", 7, 1, EAX, 5)                                                                 \
    F("xsaveopt", 0xd, 1, EAX, 0)                                                                  \
    F("xsavec", 0xd, 1, EAX, 1)                                                                    \
    F("xsaves", 0xd, 1, EAX, 3)                                                                    \
    F("lahf-lm", 0x80000001, 0, ECX, 0)                                                            \
    F("abm", 0x80000001, 0, ECX, 5)                                                                \
    F("3dnowprefetch", 0x80000001, 0, ECX, 8)                                                      \
    F("nx", 0x80000001, 0, EDX, 20)                                                                \
    F("pdpe1gb", 0x80000001, 0, EDX, 26)                                                           \
    F("rdtscp", 0x80000001, 0, EDX, 27)                                                            \
    F("invtsc", 0x80000007, 0, EDX, 8)

enum { EAX, EBX, ECX, EDX };

static const struct cpu_feature features[] = {
#define ROW(name, leaf, subleaf, reg, bit) {name, leaf, subleaf, reg, bit},
    FEATURES(ROW)
#undef ROW
};
_Static_assert(ARRAY_SIZE(features) <= 64 * CPU_FEATURE_WORDS, "a bit for each");

const char *cpu_feature_names(void)
{
#define NAME(name, leaf, subleaf, reg, bit) " " name
    return FEATURES(NAME) + 1;
#undef NAME
}

const struct cpu_feature *cpu_feature_at(unsigned n)
{
    return n < ARRAY_SIZE(features) ? &features[n] : NULL;
}

/* A word of the list: not terminated. */
struct word {
    const char *at;
    int len;
};

/* Names are told apart by letters and digits: sse4.1, sse4-1 and sse4_1 are one. */
static bool is_mark(char ch)
{
    return ch == '-' || ch == '_' || ch == '.';
}

static bool same(struct word w, const char *name)
{
    for (int i = 0; i < w.len; i++, name++)
        if (!*name || (w.at[i] != *name && !(is_mark(w.at[i]) && is_mark(*name))))
            return false;
    return !*name;
}

static int switch_feature(struct cpu_model_config *cfg, struct word w, struct err *e)
{
    bool on = w.at[0] == '+';
    struct word name = {w.at + 1, w.len - 1};
    if (same(name, "kvm")) {
        cfg->kvm_leaves = on;
        return 0;
    }
    for (unsigned n = 0; n < ARRAY_SIZE(features); n++) {
        if (!same(name, features[n].name))
            continue;
        u64 bit = BIT(n % 64);
        cfg->off[n / 64] = (cfg->off[n / 64] & ~bit) | (on ? 0 : bit);
        cfg->on[n / 64] = (cfg->on[n / 64] & ~bit) | (on ? bit : 0);
        return 0;
    }
    return err_set(e,
                   "--cpu: there is no feature %.*s; some that there are: x2apic, pcid, smap, "
                   "avx2, avx512f (all: popf run --cpu help)",
                   name.len, name.at);
}

static int set_vendor(struct cpu_model_config *cfg, struct word name, struct err *e)
{
    if (same(name, "AuthenticAMD"))
        cfg->vendor = CPU_VENDOR_AMD;
    else if (same(name, "GenuineIntel"))
        cfg->vendor = CPU_VENDOR_INTEL;
    else if (same(name, "host"))
        cfg->vendor = CPU_VENDOR_HOST;
    else
        return err_set(e, "--cpu: vendor=%.*s: AuthenticAMD, GenuineIntel and host are possible",
                       name.len, name.at);
    return 0;
}

static int set_phys_bits(struct cpu_model_config *cfg, struct word number, struct err *e)
{
    char *end;
    unsigned long n = strtoul(number.at, &end, 10);
    if (end != number.at + number.len || n < CPU_PHYS_BITS_MIN || n > CPU_PHYS_BITS_MAX)
        return err_set(e, "--cpu: phys-bits=%.*s: must be a number from %d to %d", number.len,
                       number.at, CPU_PHYS_BITS_MIN, CPU_PHYS_BITS_MAX);
    cfg->phys_bits = (unsigned)n;
    return 0;
}

static bool starts(struct word w, const char *prefix, struct word *rest)
{
    int n = (int)strlen(prefix);
    if (w.len < n || strncmp(w.at, prefix, (size_t)n))
        return false;
    *rest = (struct word){w.at + n, w.len - n};
    return true;
}

static int apply(struct cpu_model_config *cfg, struct word w, struct err *e)
{
    struct word rest;
    if (w.len > 1 && (w.at[0] == '+' || w.at[0] == '-'))
        return switch_feature(cfg, w, e);
    if (starts(w, "vendor=", &rest))
        return set_vendor(cfg, rest, e);
    if (starts(w, "phys-bits=", &rest))
        return set_phys_bits(cfg, rest, e);
    if (same(w, "host"))
        return 0;
    return err_set(e,
                   "--cpu: %.*s: give host, then -FEATURE, +FEATURE, vendor=NAME or phys-bits=N, "
                   "with commas between (popf run --cpu help)",
                   w.len, w.at);
}

int cpu_model_parse(struct cpu_model_config *cfg, const char *text, struct err *e)
{
    for (;;) {
        size_t len = strcspn(text, ",");
        if (apply(cfg, (struct word){text, len < 64 ? (int)len : 64}, e))
            return -1;
        if (!text[len])
            return 0;
        text += len + 1;
    }
}
