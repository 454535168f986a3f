/*
 * kvm.c - /dev/kvm: what it can do, whether it is worth taking, and the engine made of it.
 *
 * The interrupt controllers are popf's own, so KVM is used without its in-kernel irqchip.
 */
#include "engine/kvm/kvm_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* --- opening --- */

static const struct {
    int cap;
    const char *name;
} needed_caps[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"},
    {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"},
};

static int has_cap(int fd, int cap)
{
    int n = ioctl(fd, KVM_CHECK_EXTENSION, cap);
    return n < 0 ? 0 : n;
}

static int check_kvm(int fd, struct err *e)
{
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return err_errno(e, "/dev/kvm does not answer as KVM does");
    if (version != KVM_API_VERSION)
        return err_set(e, "/dev/kvm speaks version %d of its interface; %d is needed", version,
                       KVM_API_VERSION);
    for (unsigned i = 0; i < ARRAY_SIZE(needed_caps); i++)
        if (!has_cap(fd, needed_caps[i].cap))
            return err_set(e, "/dev/kvm lacks %s; a host kernel from 5.10 on has it",
                           needed_caps[i].name);
    return 0;
}

/* The file descriptor of a usable /dev/kvm, or -1 and *e. */
static int open_kvm(struct err *e)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENXIO || errno == ENODEV))
        return err_set(e, "no /dev/kvm: this host has no hardware virtualization to offer, or its "
                          "kvm module is not loaded");
    if (fd < 0 && (errno == EACCES || errno == EPERM))
        return err_set(e, "no permission to open /dev/kvm; join its group (usually: adduser USER "
                          "kvm, and log in anew)");
    if (fd < 0)
        return err_errno(e, "cannot open /dev/kvm");
    if (check_kvm(fd, e)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int create_vm(int kvm, struct err *e)
{
    int fd, tries = 0;
    do
        fd = ioctl(kvm, KVM_CREATE_VM, 0);
    while (fd < 0 && errno == EINTR && ++tries < 10);
    return fd < 0 ? err_errno(e, "KVM cannot create a machine") : fd;
}

static struct kvm_run *map_run(int kvm, int vcpu, size_t *size, struct err *e)
{
    int n = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (n < (int)sizeof(struct kvm_run)) {
        err_set(e, "KVM gives no area to talk to its CPUs through");
        return NULL;
    }
    void *run = mmap(NULL, (size_t)n, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) {
        err_errno(e, "cannot map KVM's area for a CPU");
        return NULL;
    }
    *size = (size_t)n;
    return run;
}

static struct kvm_cpuid2 *get_supported(int kvm, struct err *e)
{
    struct kvm_cpuid2 *list = kvm_cpuid_new();
    if (list && ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list) == 0)
        return list;
    err_errno(e, "KVM does not say what CPUID it supports");
    free(list);
    return NULL;
}

static int add_slot(int vm, unsigned slot, gpa_t gpa, u64 size, void *host, bool readonly,
                    struct err *e)
{
    struct kvm_userspace_memory_region r = {
        .slot = slot,
        .flags = readonly ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (u64)host,
    };
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r) == 0)
        return 0;
    return err_errno(e, "KVM refuses %llu KiB of memory at %#llx", (unsigned long long)size >> 10,
                     (unsigned long long)gpa);
}

/* --- the kick signal --- */

static void on_kick(int sig)
{
}

/* Without SA_RESTART, so that KVM_RUN returns. The handler is everybody's and stays. */
static void install_kick(void)
{
    struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    sigaction(KVM_KICK_SIGNAL, &sa, NULL);
}

/* --- a machine --- */

/* What the guest may read and write without an exit; everything else goes to cpu_msr.c and the
 * machine. KVM does not filter x2APIC's MSRs, but knows none without its own APIC. ORDER KVM_MSR */
static int set_msr_filter(int vm, struct err *e)
{
    enum { R = KVM_MSR_FILTER_READ, W = KVM_MSR_FILTER_WRITE };
    static const struct {
        u32 base, n, flags;
    } allowed[] = {
        {MSR_IA32_TSC, 1, R},
        {MSR_IA32_SPEC_CTRL, 2, R | W},         /* and PRED_CMD */
        {MSR_IA32_ARCH_CAPABILITIES, 2, R | W}, /* and FLUSH_CMD */
        {MSR_IA32_SYSENTER_CS, 3, R | W},
        {MSR_IA32_DEBUGCTL, 1, R | W},
        {MSR_IA32_PAT, 1, R | W},
        {MSR_IA32_XSS, 1, R | W},
        {MSR_EFER, 5, R | W},    /* and STAR, LSTAR, CSTAR, SFMASK */
        {MSR_FS_BASE, 4, R | W}, /* and GS_BASE, KERNEL_GS_BASE, TSC_AUX */
    };
    u64 all = ~0ull;
    struct kvm_msr_filter f = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};
    for (unsigned i = 0; i < ARRAY_SIZE(allowed); i++)
        f.ranges[i] = (struct kvm_msr_filter_range){.flags = allowed[i].flags,
                                                    .nmsrs = allowed[i].n,
                                                    .base = allowed[i].base,
                                                    .bitmap = (u8 *)&all};
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args[0] =
            KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER,
    };
    if (ioctl(vm, KVM_ENABLE_CAP, &cap) < 0 || ioctl(vm, KVM_X86_SET_MSR_FILTER, &f) < 0)
        return err_errno(e, "KVM does not leave MSRs to popf");
    return 0;
}

/* Older Intel processors run real mode with a TSS and page tables of KVM's, out of the guest's
 * way: below the local APIC's page, where the PC has nothing. */
static void set_tss(int vm)
{
    u64 identity_map = 0xfeffc000;
    ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000);
}

static int set_up_vm(struct kvm_engine *en, struct err *e)
{
    en->kvm = open_kvm(e);
    if (en->kvm < 0)
        return -1;
    en->vm = create_vm(en->kvm, e);
    if (en->vm < 0)
        return -1;
    set_tss(en->vm);
    en->shadow = has_cap(en->kvm, KVM_CAP_INTR_SHADOW);
    en->readonly_mem = has_cap(en->kvm, KVM_CAP_READONLY_MEM);
    en->xsave2_size = (u32)has_cap(en->vm, KVM_CAP_XSAVE2);
    struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args[0] = 1};
    en->exit_on_emulation = ioctl(en->vm, KVM_ENABLE_CAP, &cap) == 0;
    en->supported = get_supported(en->kvm, e);
    return en->supported ? set_msr_filter(en->vm, e) : -1;
}

static void destroy(struct engine *engine)
{
    struct kvm_engine *en = container_of(engine, struct kvm_engine, engine);
    if (en->interp)
        engine_interp.destroy(en->interp);
    if (en->vm >= 0)
        close(en->vm);
    if (en->kvm >= 0)
        close(en->kvm);
    free(en->supported);
    free(en->vcpu);
    free(en);
}

static struct engine *create(const struct engine_config *cfg, struct err *e)
{
    struct kvm_engine *en = calloc(1, sizeof(*en));
    if (!en) {
        err_set(e, "out of memory creating the KVM engine");
        return NULL;
    }
    en->engine.ops = &engine_kvm;
    en->cfg = *cfg;
    en->kvm = en->vm = -1;
    en->vcpu = calloc(cfg->ncpus, sizeof(*en->vcpu));
    if (!en->vcpu)
        err_set(e, "out of memory creating the KVM engine");
    else
        en->interp = engine_interp.create(cfg, e);
    if (!en->interp || set_up_vm(en, e)) {
        destroy(&en->engine);
        return NULL;
    }
    install_kick();
    return &en->engine;
}

static int add_slots(struct kvm_engine *en, struct err *e)
{
    const struct mem *m = en->cfg.mem;
    if (en->slots_made)
        return 0;
    for (unsigned i = 0; i < m->nregions; i++) {
        const struct mem_region *r = &m->region[i];
        if (add_slot(en->vm, i, r->gpa, r->size, r->host, r->rom && en->readonly_mem, e))
            return -1;
    }
    en->slots_made = true;
    return 0;
}

/* --- a CPU --- */

static struct kvm_vcpu *vcpu_of(struct engine *engine, const struct cpu *c)
{
    struct kvm_engine *en = container_of(engine, struct kvm_engine, engine);
    return c->id < en->cfg.ncpus ? en->vcpu[c->id] : NULL;
}

static void free_vcpu(struct kvm_vcpu *v)
{
    if (v->run)
        munmap(v->run, v->run_size);
    if (v->fd >= 0)
        close(v->fd);
    free(v->xsave);
    free(v);
}

static int set_up_vcpu(struct kvm_vcpu *v, struct err *e)
{
    v->fd = ioctl(v->en->vm, KVM_CREATE_VCPU, v->c->id);
    if (v->fd < 0)
        return err_errno(e, "KVM cannot create CPU %u", v->c->id);
    v->run = map_run(v->en->kvm, v->fd, &v->run_size, e);
    if (!v->run || kvm_cpuid_set(v, e))
        return -1;
    return kvm_state_probe(v, e);
}

static int cpu_attach(struct engine *engine, struct cpu *c, struct err *e)
{
    struct kvm_engine *en = container_of(engine, struct kvm_engine, engine);
    if (c->id >= en->cfg.ncpus)
        return err_set(e, "CPU %u of a machine with %u", c->id, en->cfg.ncpus);
    if (add_slots(en, e))
        return -1;
    struct kvm_vcpu *v = calloc(1, sizeof(*v));
    if (!v)
        return err_set(e, "out of memory creating a virtual CPU");
    *v = (struct kvm_vcpu){.en = en, .c = c, .fd = -1, .owner = OWNER_CPU};
    if (set_up_vcpu(v, e) || engine_interp.cpu_attach(en->interp, c, e)) {
        free_vcpu(v);
        return -1;
    }
    en->vcpu[c->id] = v;
    return 0;
}

static void cpu_detach(struct engine *engine, struct cpu *c)
{
    struct kvm_engine *en = container_of(engine, struct kvm_engine, engine);
    engine_interp.cpu_detach(en->interp, c);
    free_vcpu(en->vcpu[c->id]);
    en->vcpu[c->id] = NULL;
}

static void run(struct engine *en, struct cpu *c, u64 max_insns, struct engine_result *res)
{
    kvm_run_loop(vcpu_of(en, c), max_insns, res);
}

/* Order: kvm_run.c. */
static void kick(struct engine *en, struct cpu *c)
{
    struct kvm_vcpu *v = vcpu_of(en, c);
    if (!v)
        return;
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pid_t tid = atomic_load(&v->tid);
    if (tid)
        tgkill(getpid(), tid, KVM_KICK_SIGNAL);
}

static void get_state(struct engine *en, struct cpu *c)
{
    struct err e;
    if (kvm_state_read(vcpu_of(en, c), &e))
        log_emit(c->log, "cpu%u: %s", c->id, e.msg);
}

/* Taken over by the next run(), which can say what is wrong with it. */
static void put_state(struct engine *en, struct cpu *c)
{
    vcpu_of(en, c)->owner = OWNER_CPU;
}

static void stats(struct engine *en, struct cpu *c, void (*line)(void *arg, const char *text),
                  void *arg)
{
    const struct kvm_stats *s = &vcpu_of(en, c)->stats;
    char text[240];
    snprintf(text, sizeof(text),
             "cpu%u: %llu KVM exits: %llu port, %llu MMIO, %llu MSR, %llu halt, "
             "%llu interrupt window; %llu interrupts, %llu instructions left to the interpreter",
             c->id, (unsigned long long)s->exits, (unsigned long long)s->io,
             (unsigned long long)s->mmio, (unsigned long long)s->msr, (unsigned long long)s->halts,
             (unsigned long long)s->windows, (unsigned long long)s->interrupts,
             (unsigned long long)s->emulated);
    line(arg, text);
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .create = create,
    .destroy = destroy,
    .cpu_attach = cpu_attach,
    .cpu_detach = cpu_detach,
    .run = run,
    .kick = kick,
    .get_state = get_state,
    .put_state = put_state,
    .stats = stats,
};

/* --- is it worth taking? --- */

/*
 * Two loops of RCX rounds each, run by the guest in ring 0 and, the first, here as well. The guest
 * enters at one of the two calls.
 */
__asm__(".pushsection .text\n"
        "kvm_probe_code:\n"
        "kvm_probe_plain: call kvm_probe_compute\n"
        "  hlt\n"
        "kvm_probe_kernel: call kvm_probe_privileged\n"
        "  hlt\n"
        "kvm_probe_compute:\n"
        "  mov $1, %eax\n"
        "1: add %rcx, %rax\n"
        "  lea 3(%rax,%rcx), %rdx\n"
        "  xor %rdx, %rax\n"
        "  mov %rax, -16(%rsp)\n"
        "  rol $7, %rax\n"
        "  add -16(%rsp), %rax\n"
        "  dec %rcx\n"
        "  jnz 1b\n"
        "  ret\n"
        "kvm_probe_privileged:\n"
        "1: pushf\n"
        "  cli\n"
        "  add %rcx, %rax\n"
        "  popf\n"
        "  sti\n"
        "  nop\n"
        "  dec %rcx\n"
        "  jnz 1b\n"
        "  ret\n"
        "kvm_probe_end:\n"
        ".popsection\n");
extern const u8 kvm_probe_code[], kvm_probe_plain[], kvm_probe_kernel[], kvm_probe_end[];
/* The System V ABI's fourth argument is in RCX. */
u64 kvm_probe_compute(u64 rdi, u64 rsi, u64 rdx, u64 rounds);

#define PROBE_ROUNDS    400000u
#define PROBE_BUDGET_NS 10000000ull /* for each of the two loops */
#define PROBE_SIZE      (64 * KiB)
#define PROBE_CODE      0x5000u
#define PROBE_STACK     0xf000u
#define PROBE_RATIO_MAX 3u   /* first loop, to what it takes here */
#define PROBE_KERNEL_NS 400u /* a round of the second: processors need tens */

struct probe {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    u8 *mem;
    timer_t timer;
    bool has_timer;
    sigset_t old_mask;
};

static u64 now_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

/* Signals this thread every 4 ms, again and again: one that comes before KVM_RUN does no harm. */
static int start_timer(struct probe *p, struct err *e)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
    struct itimerspec every = {.it_interval.tv_nsec = 4000000, .it_value.tv_nsec = 4000000};
    sigset_t set;
    ev._sigev_un._tid = gettid();
    install_kick();
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, &p->old_mask);
    if (timer_create(CLOCK_MONOTONIC, &ev, &p->timer) < 0)
        return err_errno(e, "no timer to measure KVM with");
    p->has_timer = true;
    if (timer_settime(p->timer, 0, &every, NULL) < 0)
        return err_errno(e, "no timer to measure KVM with");
    return 0;
}

static void put_entry(u8 *table, unsigned n, u64 entry)
{
    memcpy(table + 8 * n, &entry, 8);
}

/* 64-bit mode, the first 64 KiB mapped to themselves. */
static void fill_memory(u8 *m)
{
    u64 rights = PTE_P | PTE_W;
    put_entry(m + 0x1000, 0, 0x2000 | rights);
    put_entry(m + 0x2000, 0, 0x3000 | rights);
    put_entry(m + 0x3000, 0, 0x4000 | rights);
    for (unsigned i = 0; i < PROBE_SIZE / PAGE_SIZE; i++)
        put_entry(m + 0x4000, i, i * PAGE_SIZE | rights | PTE_A | PTE_D);
    memcpy(m + PROBE_CODE, kvm_probe_code, (size_t)(kvm_probe_end - kvm_probe_code));
}

static int enter_long_mode(struct probe *p, struct err *e)
{
    struct kvm_sregs s;
    struct kvm_cpuid2 *cpuid = get_supported(p->kvm, e);
    if (!cpuid)
        return -1;
    int r = ioctl(p->vcpu, KVM_SET_CPUID2, cpuid); /* EFER.LME asks for it */
    free(cpuid);
    if (r < 0 || ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return err_errno(e, "KVM does not take up a CPU");
    s.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    s.cr3 = 0x1000;
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME | EFER_LMA;
    struct kvm_segment flat = {.base = 0,
                               .limit = 0xffffffff,
                               .selector = 8,
                               .type = 11,
                               .present = 1,
                               .s = 1,
                               .l = 1,
                               .g = 1};
    s.cs = flat;
    flat.selector = 16;
    flat.type = 3;
    flat.l = 0;
    flat.db = 1;
    s.ss = s.ds = s.es = s.fs = s.gs = flat;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0)
        return err_errno(e, "KVM refuses a CPU in 64-bit mode");
    return 0;
}

static int probe_open(struct probe *p, struct err *e)
{
    p->kvm = open_kvm(e);
    if (p->kvm < 0)
        return -1;
    p->vm = create_vm(p->kvm, e);
    if (p->vm < 0)
        return -1;
    set_tss(p->vm);
    p->mem = mmap(NULL, PROBE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->mem == MAP_FAILED) {
        p->mem = NULL;
        return err_errno(e, "no memory to measure KVM with");
    }
    fill_memory(p->mem);
    if (add_slot(p->vm, 0, 0, PROBE_SIZE, p->mem, false, e))
        return -1;
    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
    if (p->vcpu < 0)
        return err_errno(e, "KVM cannot create a CPU");
    p->run = map_run(p->kvm, p->vcpu, &p->run_size, e);
    return p->run && !enter_long_mode(p, e) ? start_timer(p, e) : -1;
}

static void probe_close(struct probe *p)
{
    if (p->has_timer) {
        timer_delete(p->timer);
        pthread_sigmask(SIG_SETMASK, &p->old_mask, NULL);
    }
    if (p->run)
        munmap(p->run, p->run_size);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
    if (p->kvm >= 0)
        close(p->kvm);
    if (p->mem)
        munmap(p->mem, PROBE_SIZE);
}

static int set_entry(struct probe *p, const u8 *entry, struct err *e)
{
    struct kvm_regs r = {.rip = PROBE_CODE + (u64)(entry - kvm_probe_code),
                         .rsp = PROBE_STACK,
                         .rcx = PROBE_ROUNDS,
                         .rflags = FLAG_ONE};
    if (ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
        return err_errno(e, "KVM refuses a CPU's registers");
    return 0;
}

/* Runs one loop until it is done or the time is up; picoseconds of CPU time a round, or 0 and *e.
 */
static u64 probe_loop(struct probe *p, const u8 *entry, struct err *e)
{
    struct kvm_regs r;
    if (set_entry(p, entry, e))
        return 0;
    u64 start = now_ns(CLOCK_THREAD_CPUTIME_ID);
    u64 end = now_ns(CLOCK_MONOTONIC) + PROBE_BUDGET_NS;
    while (ioctl(p->vcpu, KVM_RUN, 0) < 0) {
        if (errno != EINTR && errno != EAGAIN) {
            err_errno(e, "KVM_RUN fails");
            return 0;
        }
        if (now_ns(CLOCK_MONOTONIC) >= end)
            break;
        p->run->exit_reason = KVM_EXIT_INTR;
    }
    u64 spent = now_ns(CLOCK_THREAD_CPUTIME_ID) - start;
    if (p->run->exit_reason != KVM_EXIT_HLT && p->run->exit_reason != KVM_EXIT_INTR) {
        err_set(e, "KVM stops in a plain loop (exit %u)", p->run->exit_reason);
        return 0;
    }
    if (ioctl(p->vcpu, KVM_GET_REGS, &r) < 0 || r.rcx > PROBE_ROUNDS) {
        err_set(e, "KVM does not give a CPU's registers back");
        return 0;
    }
    u64 rounds = PROBE_ROUNDS - r.rcx;
    return spent * 1000 / (rounds ? rounds : 1) + 1;
}

/* The quicker of two runs here, in picoseconds a round. */
static u64 native_loop(void)
{
    u64 best = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        u64 start = now_ns(CLOCK_THREAD_CPUTIME_ID);
        kvm_probe_compute(0, 0, 0, PROBE_ROUNDS);
        best = min_u64(best, now_ns(CLOCK_THREAD_CPUTIME_ID) - start);
    }
    return best * 1000 / PROBE_ROUNDS + 1;
}

static bool judge(struct probe *p, struct err *why)
{
    u64 native = native_loop();
    u64 guest = probe_loop(p, kvm_probe_plain, why);
    if (!guest)
        return false;
    if (guest > PROBE_RATIO_MAX * native) {
        err_set(why,
                "/dev/kvm is itself software, or badly nested: kernel code takes %llu times as "
                "long as outside",
                (unsigned long long)((guest + native / 2) / native));
        return false;
    }
    u64 kernel = probe_loop(p, kvm_probe_kernel, why);
    if (!kernel)
        return false;
    bool good = kernel <= PROBE_KERNEL_NS * 1000;
    err_set(why,
            "/dev/kvm %s: plain kernel code at %llu%% of the speed outside, PUSHF, CLI, POPF "
            "and STI in %llu ns",
            good ? "runs at hardware speed" : "is badly nested",
            (unsigned long long)(native * 100 / guest), (unsigned long long)(kernel / 1000));
    return good;
}

bool kvm_measure(char *why, size_t why_size)
{
    struct probe p = {.kvm = -1, .vm = -1, .vcpu = -1};
    struct err e = {{0}};
    bool good = probe_open(&p, &e) == 0 && judge(&p, &e);
    probe_close(&p);
    snprintf(why, why_size, "%s", e.msg);
    return good;
}
