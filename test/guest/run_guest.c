/*
 * run_guest - runs a tiny guest under every engine that this host has, and prints its claims as
 * TAP.
 *
 *     run_guest [--cpus N] [--memory MIB] [--append STRING] [--expect exit|shutdown|any]
 *               [--timeout SECONDS] [--seeds N] GUEST
 *
 * POPF_TEST_KVM=1 tries kvm even where `auto` would not take it. POPF_TEST_QEMU=1 runs the guest in
 * qemu-system-x86_64 as well and shows where that disagrees; it decides nothing.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "popf.h"

enum expect { EXPECT_EXIT, EXPECT_SHUTDOWN, EXPECT_ANY };

struct options {
    const char *guest, *append;
    unsigned cpus, memory, timeout;
    unsigned seeds; /* run so often, with "seed=1", "seed=2", ... on the command line */
    enum expect expect;
};

/* What a guest said. */
struct text {
    char *buf;
    size_t len;
};

static unsigned claims; /* TAP's numbering */

static void claim(bool good, const char *engine, const char *what)
{
    printf("%sok %u - %s: %s\n", good ? "" : "not ", ++claims, engine, what);
    fflush(stdout);
}

static void add_text(struct text *t, const void *buf, size_t len)
{
    char *p = realloc(t->buf, t->len + len + 1);
    if (!p)
        abort();
    memcpy(p + t->len, buf, len);
    t->buf = p;
    t->len += len;
    p[t->len] = 0;
}

static void on_serial(void *arg, unsigned port, const void *buf, size_t len)
{
    if (port == 0)
        add_text(arg, buf, len);
}

/* Each line that is a claim goes to TAP, the others are comments; so are the claims of a guest that
 * is known to be mad. */
static void pass_on(const struct text *t, const char *engine, bool mad)
{
    for (const char *p = t->buf, *nl; p && *p; p = nl ? nl + 1 : NULL) {
        nl = strchr(p, '\n');
        int len = nl ? (int)(nl - p) : (int)strlen(p);
        if (!mad && !strncmp(p, "ok ", 3))
            printf("ok %u - %s: %.*s\n", ++claims, engine, len - 3, p + 3);
        else if (!mad && !strncmp(p, "not ok ", 7))
            printf("not ok %u - %s: %.*s\n", ++claims, engine, len - 7, p + 7);
        else if (strncmp(p, "end ", 4))
            printf("# %s: %.*s\n", engine, len, p);
    }
    fflush(stdout);
}

static bool ended_well(const struct options *o, const struct popf_outcome *how)
{
    switch (o->expect) {
    case EXPECT_EXIT: /* a guest that leaves with failure has said why in a claim */
        return how->end == POPF_END_DEBUG_EXIT;
    case EXPECT_SHUTDOWN:
        return how->end == POPF_END_TRIPLE_FAULT;
    default:
        return how->end != POPF_END_ERROR;
    }
}

static void tell_where(struct popf *vm, const struct options *o)
{
    struct popf_regs r;
    popf_pause(vm);
    for (unsigned cpu = 0; cpu < o->cpus; cpu++)
        if (!popf_get_regs(vm, cpu, &r, NULL))
            printf("# CPU %u at %x:%llx, RSP %llx, RFLAGS %llx, CR0 %llx, CR2 %llx\n", cpu,
                   r.cs.sel, (unsigned long long)r.rip, (unsigned long long)r.gpr[4],
                   (unsigned long long)r.rflags, (unsigned long long)r.cr0,
                   (unsigned long long)r.cr2);
    popf_resume(vm);
}

static struct popf *create(const struct options *o, const char *engine, unsigned seed,
                           struct text *t, struct popf_error *err)
{
    struct popf_config cfg = POPF_CONFIG_INIT;
    char line[256];
    if (seed)
        snprintf(line, sizeof(line), "%s seed=%u", o->append, seed);
    cfg.kernel = o->guest;
    cfg.cmdline = seed ? line : o->append;
    cfg.memory = (uint64_t)o->memory << 20;
    cfg.cpus = o->cpus;
    cfg.engine = engine;
    cfg.debug_exit = true;
    cfg.no_reboot = true;
    cfg.serial_out = on_serial;
    cfg.serial_arg = t;
    return popf_create(&cfg, err);
}

static void run_engine(const struct options *o, const char *engine, unsigned seed)
{
    struct text t = {0};
    struct popf_error err = {{0}};
    struct popf_outcome how = {.text = "still running"};
    struct popf *vm = create(o, engine, seed, &t, &err);
    if (!vm || popf_start(vm, &err)) {
        printf("%sok %u - %s # SKIP %s\n", strcmp(engine, "interp") ? "" : "not ", ++claims, engine,
               err.msg);
        popf_destroy(vm);
        return;
    }
    bool late = popf_wait_ms(vm, &how, o->timeout * 1000) != 0;
    bool good = late ? o->expect == EXPECT_ANY : ended_well(o, &how);
    if (!good)
        tell_where(vm, o);
    popf_stop(vm);
    popf_wait(vm, NULL);
    pass_on(&t, engine, o->expect == EXPECT_ANY);
    if (o->expect == EXPECT_EXIT && strstr(t.buf ? t.buf : "", "\nend ") == NULL)
        good = false;
    char what[600];
    snprintf(what, sizeof(what), "%s (%s)",
             good ? "ends as it should" : "does not end as it should", how.text);
    claim(good, engine, what);
    popf_destroy(vm);
    free(t.buf);
}

/* What a guest claims depends on nothing but the CPU: QEMU 7.2's answers, as comments. */
static void run_qemu(const struct options *o)
{
    char cmd[1024], line[512];
    const char *end = strrchr(o->guest, '/');
    snprintf(cmd, sizeof(cmd),
             "timeout %u qemu-system-x86_64 -M pc -accel tcg -cpu max -m %u -smp %u -nodefaults "
             "-display none -no-reboot -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 "
             "-kernel %s -append '%s' 2>&1 </dev/null",
             o->timeout, o->memory, o->cpus, o->guest, o->append);
    FILE *f = popen(cmd, "r");
    if (!f)
        return;
    unsigned good = 0, bad = 0;
    bool ended = false;
    while (fgets(line, sizeof(line), f)) {
        if (!strncmp(line, "ok ", 3))
            good++;
        else if (!strncmp(line, "end ", 4))
            ended = true;
        else if (!strncmp(line, "not ok ", 7) && ++bad)
            printf("# qemu differs: %s", line + 7);
    }
    pclose(f);
    printf("# qemu: %s: %u agree, %u differ%s\n", end ? end + 1 : o->guest, good, bad,
           ended ? "" : ", and it did not reach the end");
}

/* kvm only where it is worth it. */
static const char *why_not_kvm(const struct options *o)
{
    const char *force = getenv("POPF_TEST_KVM");
    if (force && !strcmp(force, "1"))
        return NULL;
    struct text t = {0};
    struct popf *vm = create(o, "auto", 0, &t, NULL);
    bool yes = vm && !strcmp(popf_engine(vm), "kvm");
    popf_destroy(vm);
    return yes ? NULL
               : "auto does not take it here (popf doctor says why); POPF_TEST_KVM=1 insists";
}

static int parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            o->guest = argv[i];
            continue;
        }
        if (i + 1 == argc)
            return -1;
        const char *opt = argv[i], *val = argv[++i];
        if (!strcmp(opt, "--cpus"))
            o->cpus = (unsigned)atoi(val);
        else if (!strcmp(opt, "--memory"))
            o->memory = (unsigned)atoi(val);
        else if (!strcmp(opt, "--timeout"))
            o->timeout = (unsigned)atoi(val);
        else if (!strcmp(opt, "--seeds"))
            o->seeds = (unsigned)atoi(val);
        else if (!strcmp(opt, "--append"))
            o->append = val;
        else if (!strcmp(opt, "--expect"))
            o->expect = !strcmp(val, "shutdown") ? EXPECT_SHUTDOWN
                        : !strcmp(val, "any")    ? EXPECT_ANY
                                                 : EXPECT_EXIT;
        else
            return -1;
    }
    return o->guest ? 0 : -1;
}

int main(int argc, char **argv)
{
    setenv("POPF_BT_HOT", "1", 0); /* tiny guests hardly repeat themselves */
    static const char *const engines[] = {"interp", "bt", "kvm"};
    struct options o = {.append = "", .cpus = 1, .memory = 32, .timeout = 20};
    if (parse(&o, argc, argv)) {
        fputs("usage: run_guest [--cpus N] [--memory MIB] [--append STRING] "
              "[--expect exit|shutdown|any] [--timeout S] [--seeds N] GUEST\n",
              stderr);
        return 2;
    }
    const char *only = getenv("POPF_TEST_ENGINE");
    for (unsigned i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
        if (only && strcmp(only, engines[i]))
            continue;
        const char *why = strcmp(engines[i], "kvm") ? NULL : why_not_kvm(&o);
        if (why)
            printf("ok %u - kvm # SKIP %s\n", ++claims, why);
        else
            for (unsigned seed = o.seeds ? 1 : 0; seed <= o.seeds; seed++)
                run_engine(&o, engines[i], seed);
    }
    const char *qemu = getenv("POPF_TEST_QEMU");
    if (qemu && !strcmp(qemu, "1"))
        run_qemu(&o);
    printf("1..%u\n", claims);
    return 0;
}
