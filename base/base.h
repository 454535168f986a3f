/*
 * base.h - the words every other file uses: integer types, errors, logging, small helpers.
 *
 * Three kinds of failure are never mixed (docs/architecture.md):
 *   - a host failure is a return code plus one line in a struct err, and is reported once;
 *   - a guest's mistake gets what the hardware would give: a fault, a status bit, all ones;
 *   - a mistake of ours is an assert.
 */
#ifndef POPF_BASE_H
#define POPF_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;
typedef __int128 s128;

/* Guest addresses are numbers, never pointers: guest-physical, guest-virtual (linear). */
typedef u64 gpa_t;
typedef u64 gva_t;

#define ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define BIT(n)                          (1ull << (n))
#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define NORETURN                        __attribute__((noreturn))
#define PRINTF(f, a)                    __attribute__((format(printf, f, a)))

#define PAGE_SHIFT   12
#define PAGE_SIZE    4096ull
#define PAGE_MASK    4095ull
#define KiB          (1ull << 10)
#define MiB          (1ull << 20)
#define GiB          (1ull << 30)
#define NSEC_PER_SEC 1000000000ull

static inline u64 min_u64(u64 a, u64 b)
{
    return a < b ? a : b;
}

static inline u64 max_u64(u64 a, u64 b)
{
    return a > b ? a : b;
}

/* `align` is a power of two. */
static inline u64 align_up(u64 v, u64 align)
{
    return (v + align - 1) & ~(align - 1);
}

static inline u64 align_down(u64 v, u64 align)
{
    return v & ~(align - 1);
}

/* bits [lo, lo+n) of v, right-justified; n in 1..63 */
static inline u64 bits(u64 v, unsigned lo, unsigned n)
{
    return (v >> lo) & ((1ull << n) - 1);
}

/* sign-extends the low `n` bits of v; n in 1..64 */
static inline s64 sext(u64 v, unsigned n)
{
    return (s64)(v << (64 - n)) >> (64 - n);
}

/* All ones in the low `size` bytes; size in 1..8. */
static inline u64 size_mask(unsigned size)
{
    return ~0ull >> (64 - 8 * size);
}

/*
 * A host failure: one line that says what was tried, what went wrong and how to mend it.
 * Functions that can fail so take a struct err * last and return 0 or -1 (or NULL).
 */
struct err {
    char msg[512];
};

/* Fills *e (which may be NULL) and returns -1, so that `return err_set(e, ...)` reads well. */
int err_set(struct err *e, const char *fmt, ...) PRINTF(2, 3);

/* Like err_set(), with ": " and strerror(errno) appended. */
int err_errno(struct err *e, const char *fmt, ...) PRINTF(2, 3);

/*
 * Zeros, for munmap(), that take room where they are touched; NULL and errno without address space.
 * Processes that are cloned from ours do not have them, so that neither side pays for copies.
 */
void *reserve_memory(size_t size);

/* What `--trace` can show; the bit numbers of struct log.mask. ORDER TRACE: log.c has the names. */
enum trace {
    TRACE_EXIT,  /* engine exits */
    TRACE_INTR,  /* interrupts and their delivery */
    TRACE_FAULT, /* exceptions */
    TRACE_MSR,   /* RDMSR, WRMSR */
    TRACE_DEV,   /* device registers */
    TRACE_BOOT,  /* loaders */
    TRACE_CPU,   /* mode changes, CR writes, task switches */
    TRACE_INSN,  /* every instruction */
    TRACE_N
};

/* One per machine; there is no global log. A NULL struct log * is silent. */
struct log {
    u32 mask;     /* BIT(TRACE_x) for the categories shown */
    bool verbose; /* log_info() is shown */
    void (*sink)(void *arg, const char *line);
    void *arg;
};

/* The bit of a category named by the user ("exits", "msrs", "all", ...), or 0 if there is none. */
u32 log_category(const char *name);

/* "exits, interrupts, ..." for --help. */
const char *log_categories(void);

void log_emit(const struct log *l, const char *fmt, ...) PRINTF(2, 3);

static inline bool log_wants(const struct log *l, enum trace t)
{
    return l && (l->mask & (1u << t));
}

#define log_trace(l, cat, ...)                                                                     \
    do {                                                                                           \
        if (unlikely(log_wants((l), (cat))))                                                       \
            log_emit((l), __VA_ARGS__);                                                            \
    } while (0)

#define log_info(l, ...)                                                                           \
    do {                                                                                           \
        const struct log *log_ = (l);                                                              \
        if (log_ && log_->verbose)                                                                 \
            log_emit(log_, __VA_ARGS__);                                                           \
    } while (0)

#endif
