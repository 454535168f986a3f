#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int err_set(struct err *e, const char *fmt, ...)
{
    if (!e)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    return -1;
}

int err_errno(struct err *e, const char *fmt, ...)
{
    if (!e)
        return -1;
    int saved = errno;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
    va_end(ap);
    size_t len = strlen(e->msg);
    snprintf(e->msg + len, sizeof(e->msg) - len, ": %s", strerror(saved));
    errno = saved;
    return -1;
}

static const char *const category_names[] = {
    /* ORDER TRACE */
    [TRACE_EXIT] = "exits", [TRACE_INTR] = "interrupts", [TRACE_FAULT] = "faults",
    [TRACE_MSR] = "msrs",   [TRACE_DEV] = "devices",     [TRACE_BOOT] = "boot",
    [TRACE_CPU] = "cpu",    [TRACE_INSN] = "insns",
};
static_assert(ARRAY_SIZE(category_names) == TRACE_N, "a trace category has no name");

u32 log_category(const char *name)
{
    if (!strcmp(name, "all"))
        return (1u << TRACE_N) - 1;
    for (unsigned i = 0; i < TRACE_N; i++)
        if (!strcmp(name, category_names[i]))
            return 1u << i;
    return 0;
}

const char *log_categories(void)
{
    return "exits, interrupts, faults, msrs, devices, boot, cpu, insns, all";
}

void log_emit(const struct log *l, const char *fmt, ...)
{
    if (!l || !l->sink)
        return;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    l->sink(l->arg, line);
}

void *reserve_memory(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_DONTFORK);
    return p;
}
