/*
 * cpu_fpu.c - the guest's FP and SIMD state: its image, and when it is in the host's registers.
 *
 * Sources: Intel SDM vol. 1, chapter 13 (XSAVE), 10.5 (FXSAVE), 8.1 (x87).
 */
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "cpu/cpu_fpu_priv.h"

#define XCR0_AVX512 (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

/* --- what the host has --- */

static bool host_xsave(void)
{
    u32 a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE);
}

u64 cpu_fpu_host_xcr0(void)
{
    u32 lo, hi;
    if (!host_xsave())
        return XCR0_X87 | XCR0_SSE;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    u64 x = lo & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
    return (x & XCR0_AVX512) == XCR0_AVX512 && (x & XCR0_AVX) ? x : x & ~(u64)XCR0_AVX512;
}

static void find_layout(struct cpu_fpu *f, u64 xcr0)
{
    u32 a = 0, b = 0, c = 0, d = 0;
    f->has_xsave = host_xsave();
    f->features = f->has_xsave ? xcr0 : XCR0_X87 | XCR0_SSE;
    f->size = IMG_EXTENDED;
    if (f->has_xsave && __get_cpuid_count(0xd, 1, &a, &b, &c, &d))
        f->has_xsaveopt = a & 1;
    for (unsigned n = 2; f->has_xsave && n < 16; n++) {
        if (!(xcr0 & BIT(n)))
            continue;
        __cpuid_count(0xd, n, a, b, c, d);
        f->len[n] = a;
        f->offset[n] = b;
        f->align |= c & 2 ? BIT(n) : 0;
        if (a + b > f->size)
            f->size = a + b;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        f->exc_ptrs = b & BIT(6);
        f->no_fcs = b & BIT(13);
    }
}

static u32 host_mxcsr_mask(void)
{
    u8 area[512] __attribute__((aligned(16)));
    cpu_fill(area, 0, sizeof area);
    __asm__ volatile("fxsave64 %0" : "=m"(area));
    u32 mask = *(u32 *)(area + IMG_MXCSR_MASK);
    return mask ? mask : 0xffbf; /* SDM vol. 1, 11.6.6 */
}

/* --- faults in stubs --- */

/*
 * The CPU whose state is in this thread's registers. Thread-local and not in an instance, since a
 * signal handler has nothing else to start from. Set only while resident. Initial-exec, because
 * the handler must not allocate it.
 */
static __thread struct cpu_fpu *resident_fpu __attribute__((tls_model("initial-exec")));

/* Signal dispositions belong to the process, and so do these: who handled the signals before us.
 * Written under the lock, when a CPU is made and the handlers are not (or no longer) ours. */
static const int fault_signals[] = {SIGFPE, SIGILL, SIGSEGV};
static struct sigaction previous[ARRAY_SIZE(fault_signals)];
static pthread_mutex_t handlers_lock = PTHREAD_MUTEX_INITIALIZER;

static void chain(int sig, siginfo_t *si, void *uc)
{
    static __thread bool chaining __attribute__((tls_model("initial-exec")));
    if (chaining) { /* a later handler that chains to us is what we chain to */
        signal(sig, SIG_DFL);
        return;
    }
    chaining = true;
    for (unsigned i = 0; i < ARRAY_SIZE(fault_signals); i++) {
        const struct sigaction *p = &previous[i];
        if (fault_signals[i] != sig)
            continue;
        if (p->sa_flags & SA_SIGINFO)
            p->sa_sigaction(sig, si, uc);
        else if (p->sa_handler != SIG_DFL && p->sa_handler != SIG_IGN)
            p->sa_handler(sig);
        else
            signal(sig, SIG_DFL); /* the instruction faults again, and now for good */
        break;
    }
    chaining = false;
}

#define HOST_TOP                                                                                   \
    0x7ffffffff000ull /* from here on Linux gives no memory to who does not ask for it */

/* A stub's instruction changes nothing when it faults, and a stub keeps nothing on the stack: it is
 * left by going to a RET with the trap number in RAX. The kernel puts the guest's state back. */
static void on_fault(int sig, siginfo_t *si, void *ucp)
{
    greg_t *regs = ((ucontext_t *)ucp)->uc_mcontext.gregs;
    struct cpu_fpu *f = resident_fpu;
    if (!f || (u64)regs[REG_RIP] - (u64)f->code >= STUB_CODE_SIZE) {
        chain(sig, si, ucp);
        return;
    }
    u64 addr = (u64)si->si_addr;
    bool meant = addr - (u64)f->guard < 3 * PAGE_SIZE || addr >= HOST_TOP;
    if (regs[REG_TRAPNO] == EXC_PF && !meant) {
        chain(sig, si, ucp); /* guest RAM that the host cannot provide: no fault of the guest's */
        return;
    }
    f->fault_addr = addr;
    regs[REG_RAX] = STUB_FAULT | regs[REG_TRAPNO];
    regs[REG_RIP] = (greg_t)(f->code + STUB_EXIT);
}

static void install_handlers(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&sa.sa_mask);
    pthread_mutex_lock(&handlers_lock);
    for (unsigned i = 0; i < ARRAY_SIZE(fault_signals); i++) {
        struct sigaction now;
        sigaction(fault_signals[i], NULL, &now);
        if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault)
            continue;
        previous[i] = now;
        sigaction(fault_signals[i], &sa, NULL);
    }
    pthread_mutex_unlock(&handlers_lock);
}

/* --- residency --- */

void cpu_fpu_load(struct cpu *c)
{
    struct cpu_fpu *f = c->fpu;
    if (f->resident)
        return;
    resident_fpu = f;
    f->resident = true;
    if (f->has_xsave)
        __asm__ volatile("xrstor64 (%0)"
                         :
                         : "r"(f->image), "a"((u32)f->features), "d"((u32)(f->features >> 32))
                         : "memory");
    else
        __asm__ volatile("fxrstor64 (%0)" : : "r"(f->image) : "memory");
}

/* The pointers that the host saved are addresses of stubs. */
static void put_pointers(struct cpu_fpu *f)
{
    img_put16(f, IMG_FOP, f->fop);
    img_put64(f, IMG_FIP, f->fip);
    img_put64(f, IMG_FDP, f->fdp);
}

/* The C ABI wants the x87 empty, default control words, and clean upper halves for speed. None of
 * these wait for pending x87 exceptions. */
static void reset_host(const struct cpu_fpu *f)
{
    static const u32 mxcsr = MXCSR_INIT;
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
    if (f->features & XCR0_AVX)
        __asm__ volatile("vzeroupper");
}

/*
 * XSAVEOPT leaves out what has not changed since the XRSTOR from this image, which is then right
 * as it is, and what is in its initial configuration: there the image is made right where it was
 * not. Between the two nobody writes to the image.
 */
static void save_opt(struct cpu_fpu *f)
{
    u64 was = img64(f, IMG_XSTATE_BV);
    __asm__ volatile("xsaveopt64 (%0)"
                     :
                     : "r"(f->image), "a"((u32)f->features), "d"((u32)(f->features >> 32))
                     : "memory");
    u64 gone = was & ~img64(f, IMG_XSTATE_BV);
    if (unlikely(gone))
        cpu_fpu_image_init(f, gone);
}

static void save(struct cpu_fpu *f)
{
    if (f->has_xsaveopt)
        save_opt(f);
    else if (f->has_xsave)
        __asm__ volatile("xsave64 (%0)"
                         :
                         : "r"(f->image), "a"((u32)f->features), "d"((u32)(f->features >> 32))
                         : "memory");
    else
        __asm__ volatile("fxsave64 (%0)" : : "r"(f->image) : "memory");
    put_pointers(f);
    reset_host(f);
    f->resident = false;
    resident_fpu = NULL;
}

/* --- for engines that emit --- */

/* The same that note_x87() of cpu_fpu_exec.c does at once; no exception was unmasked. */
void cpu_fpu_take_noted(struct cpu *c)
{
    struct cpu_fpu *f = c->fpu;
    u64 rip = c->x87_page + (c->x87_last & PAGE_MASK);
    f->fip = c->mode == X86_MODE64 ? rip : (u32)rip;
    f->fcs = c->seg[CS].sel;
    if (!f->exc_ptrs) {
        f->fop = (c->x87_last >> X87_LAST_FOP) & 0x7ff;
        if (c->x87_seg) {
            unsigned seg = c->x87_seg - 1u;
            f->fdp = c->x87_dp;
            f->fds = seg < X86_SEG_FLAT ? c->seg[seg].sel : c->seg[DS].sel;
        }
    }
    c->x87_last = 0;
    c->x87_seg = 0;
}

/* What the host's registers say, whoever loaded them: a signal in emitted code has no stack. */
static bool all_masked(void)
{
    u16 cw, sw;
    u32 mxcsr;
    __asm__ volatile("fnstcw %0\n\tfnstsw %1\n\tstmxcsr %2" : "=m"(cw), "=m"(sw), "=m"(mxcsr));
    return (cw & 0x3f) == 0x3f && !(sw & FSW_ES) && (mxcsr & MXCSR_INIT) == MXCSR_INIT;
}

static enum cpu_fpu_level allowed(const struct cpu *c)
{
    if (c->cr0 & (CR0_EM | CR0_TS) || !(c->cr4 & CR4_OSFXSR))
        return FPU_NONE;
    u64 avx = XCR0_SSE | XCR0_AVX, all = avx | XCR0_AVX512;
    if (!(c->cr4 & CR4_OSXSAVE) || cpu_realish(c) || (c->xcr0 & avx) != avx)
        return FPU_SSE;
    return (c->xcr0 & all) == all ? FPU_AVX512 : FPU_AVX;
}

bool cpu_fpu_ready(struct cpu *c, enum cpu_fpu_level level)
{
    enum cpu_fpu_level max = allowed(c);
    if (level > max)
        return false;
    cpu_fpu_load(c);
    if (!all_masked())
        return false;
    for (unsigned n = FPU_SSE; n <= FPU_AVX512; n++)
        c->fpu_off[n] = n > max;
    return true;
}

bool cpu_fpu_exc_ptrs(const struct cpu *c)
{
    return c->fpu->exc_ptrs;
}

u32 cpu_fpu_mxcsr_mask(const struct cpu *c)
{
    return c->fpu->mxcsr_mask;
}

void cpu_leave(struct cpu *c)
{
    if (!c->fpu->resident) {
        put_pointers(c->fpu); /* of an instruction in whose midst the state was left */
        return;
    }
    if (c->x87_last)
        cpu_fpu_take_noted(c);
    cpu_fpu_off(c);
    save(c->fpu);
}

u16 cpu_fpu_status(struct cpu *c)
{
    u16 sw;
    if (!c->fpu->resident)
        return img16(c->fpu, IMG_FSW);
    __asm__ volatile("fnstsw %0" : "=m"(sw));
    return sw;
}

/* --- the image --- */

void cpu_fpu_image_init(struct cpu_fpu *f, u64 which)
{
    if (which & XCR0_X87) {
        cpu_fill(f->image, 0, IMG_MXCSR);
        cpu_fill(f->image + IMG_ST, 0, 8 * 16);
        img_put16(f, IMG_FCW, 0x37f);
        f->fip = f->fdp = 0;
        f->fop = f->fcs = f->fds = 0;
    }
    if (which & XCR0_SSE)
        cpu_fill(f->image + IMG_XMM, 0, 16 * 16);
    for (unsigned n = 2; n < ARRAY_SIZE(f->offset); n++)
        if (which & BIT(n))
            cpu_fill(f->image + f->offset[n], 0, f->len[n]);
}

void cpu_fpu_take_pointers(struct cpu_fpu *f)
{
    /* What processors do not keep: reserved bits, and ES and B against the flags. */
    u16 cw = (img16(f, IMG_FCW) & 0x1f3f) | 0x40, sw = img16(f, IMG_FSW) & 0x7f7f;
    img_put16(f, IMG_FCW, cw);
    img_put16(f, IMG_FSW, sw & ~cw & 0x3f ? sw | 0x8080 : sw);
    f->fop = img16(f, IMG_FOP) & 0x7ff;
    f->fip = img64(f, IMG_FIP);
    f->fdp = img64(f, IMG_FDP);
    put_pointers(f);
}

void cpu_fpu_reset(struct cpu *c)
{
    struct cpu_fpu *f = c->fpu;
    cpu_leave(c);
    cpu_fpu_off(c);
    cpu_fpu_image_init(f, f->features);
    cpu_fill(f->image + IMG_XSTATE_BV, 0, 64);
    img_put32(f, IMG_MXCSR, MXCSR_INIT);
    img_put32(f, IMG_MXCSR_MASK, f->mxcsr_mask);
    /* After RESET the x87 is not as FNINIT leaves it (SDM vol. 3A, table 9-1): all registers +0. */
    img_put16(f, IMG_FCW, 0x40);
    img_put16(f, IMG_FTW, 0xff);
    img_put64(f, IMG_XSTATE_BV, f->has_xsave ? XCR0_X87 : f->features);
}

unsigned cpu_fpu_size(const struct cpu *c)
{
    return c->fpu->size;
}

void cpu_fpu_get(struct cpu *c, void *buf)
{
    cpu_leave(c);
    cpu_copy(buf, c->fpu->image, c->fpu->size);
}

int cpu_fpu_set(struct cpu *c, const void *buf)
{
    struct cpu_fpu *f = c->fpu;
    u64 header[2];
    u32 mxcsr;
    cpu_copy(header, (const u8 *)buf + IMG_XSTATE_BV, sizeof header);
    cpu_copy(&mxcsr, (const u8 *)buf + IMG_MXCSR, sizeof mxcsr);
    u64 present = header[0];
    if ((present & ~f->features) || header[1] || (mxcsr & ~f->mxcsr_mask))
        return -1;
    cpu_leave(c);
    cpu_copy(f->image, buf, IMG_LEGACY_END);
    for (unsigned n = 2; n < ARRAY_SIZE(f->offset); n++)
        cpu_copy(f->image + f->offset[n], (const u8 *)buf + f->offset[n], f->len[n]);
    img_put64(f, IMG_XSTATE_BV, present);
    img_put32(f, IMG_MXCSR_MASK, f->mxcsr_mask);
    f->fcs = f->fds = 0;
    cpu_fpu_take_pointers(f);
    cpu_fpu_image_init(f, f->features & ~present);
    if (!f->has_xsave)
        img_put64(f, IMG_XSTATE_BV, f->features);
    return 0;
}

/* --- life --- */

static void release(struct cpu_fpu *f)
{
    cpu_fpu_emit_free(f);
    if (f->guard)
        munmap(f->guard, 3 * PAGE_SIZE);
    free(f->image);
    free(f->stage);
    free(f);
}

static int allocate(struct cpu_fpu *f, struct err *e)
{
    f->image = aligned_alloc(64, align_up(f->size, 64));
    f->stage = aligned_alloc(64, align_up(f->size, 64));
    if (!f->image || !f->stage)
        return err_set(e, "FP state of a virtual CPU: out of memory");
    cpu_fill(f->image, 0, align_up(f->size, 64));
    void *p = mmap(NULL, 3 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_errno(e, "FP state of a virtual CPU: mmap of %llu bytes", 3 * PAGE_SIZE);
    f->guard = p;
    if (mprotect(f->guard + PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE))
        return err_errno(e, "FP state of a virtual CPU: mprotect");
    return cpu_fpu_emit_init(f, e);
}

struct cpu_fpu *cpu_fpu_new(struct cpu *c, struct err *e)
{
    struct cpu_fpu *f = aligned_alloc(64, align_up(sizeof *f, 64));
    if (!f) {
        err_set(e, "FP state of a virtual CPU: out of memory");
        return NULL;
    }
    cpu_fill(f, 0, sizeof *f);
    install_handlers();
    find_layout(f, cpu_xcr0_valid(c));
    f->mxcsr_mask = host_mxcsr_mask();
    if (allocate(f, e)) {
        release(f);
        return NULL;
    }
    c->fpu = f;
    cpu_fpu_reset(c);
    return f;
}

void cpu_fpu_free(struct cpu_fpu *f)
{
    if (!f)
        return;
    if (f->resident)
        save(f);
    release(f);
}
