/*
 * What the host offers: its TSC, and the report of `popf doctor`.
 */
#include "vm/vm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "cpu/cpu_fpu.h"
#include "engine/direct/direct.h"

#define CALIBRATE_NS 10000000ull

u64 vm_host_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* --- TSC --- */

/* SDM vol. 3B, "Determining the Processor Base Frequency"; 0x40000010 is VMware's convention. */
static u64 tsc_hz_from_cpuid(void)
{
    u32 a, b, c, d;
    u32 max = __get_cpuid_max(0, NULL);
    if (max >= 0x15) {
        __cpuid_count(0x15, 0, a, b, c, d);
        if (a && b && c)
            return muldiv64(c, b, a);
    }
    __cpuid(1, a, b, c, d);
    if (c >> 31) { /* a hypervisor is present */
        __cpuid(0x40000000, a, b, c, d);
        if (a >= 0x40000010 && a < 0x40001000) {
            __cpuid(0x40000010, a, b, c, d);
            if (a)
                return a * 1000ull;
        }
    }
    return 0;
}

/* One reading of both clocks, the closest of several tries. */
static void sample(u64 *tsc, u64 *ns)
{
    u64 best = UINT64_MAX;
    for (int i = 0; i < 8; i++) {
        u64 before = vm_host_tsc();
        u64 t = vm_host_ns();
        u64 after = vm_host_tsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            *ns = t;
        }
    }
}

static u64 tsc_hz_measured(void)
{
    u64 tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;
    sample(&tsc0, &ns0);
    do
        sample(&tsc1, &ns1);
    while (ns1 - ns0 < CALIBRATE_NS);
    return muldiv64(tsc1 - tsc0, NSEC_PER_SEC, ns1 - ns0);
}

u64 vm_host_tsc_hz(void)
{
    u64 hz = tsc_hz_from_cpuid();
    return hz ? hz : tsc_hz_measured();
}

/* --- doctor --- */

struct report {
    void (*line)(void *arg, const char *text);
    void *arg;
    bool broken; /* machines cannot run here */
};

static void say(struct report *r, const char *fmt, ...) PRINTF(2, 3);

static void say(struct report *r, const char *fmt, ...)
{
    char buf[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    r->line(r->arg, buf);
}

static void cpu_name(char name[49])
{
    u32 r[12] = {0};
    if (__get_cpuid_max(0x80000000u, NULL) >= 0x80000004u)
        for (u32 i = 0; i < 3; i++)
            __cpuid(0x80000002u + i, r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]);
    memcpy(name, r, 48);
    name[48] = 0;
    size_t skip = strspn(name, " ");
    memmove(name, name + skip, strlen(name + skip) + 1);
}

static void report_cpu(struct report *r)
{
    char name[49];
    cpu_name(name);
    u32 a, b, c, d, b7, c7, d7;
    __cpuid(1, a, b, c, d);
    bool hypervisor = c >> 31;
    __cpuid_count(7, 0, a, b7, c7, d7);
    u64 xcr0 = cpu_fpu_host_xcr0();
    say(r, "CPU        %s, %ld online%s", name[0] ? name : "unknown", sysconf(_SC_NPROCESSORS_ONLN),
        hypervisor ? ", itself a virtual machine" : "");
    say(r, "vectors    SSE4.2 %s, AVX %s, AVX2 %s, AVX-512 %s", c >> 20 & 1 ? "yes" : "no",
        xcr0 & XCR0_AVX ? "yes" : "no", (xcr0 & XCR0_AVX) && (b7 >> 5 & 1) ? "yes" : "no",
        xcr0 & XCR0_ZMM_HI256 ? "yes" : "no");
    u64 hz = tsc_hz_from_cpuid();
    say(r, "TSC        %.3f GHz (%s)", (double)vm_host_tsc_hz() / 1e9,
        hz ? "told by CPUID" : "measured");
}

static void report_kvm(struct report *r)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        say(r, "/dev/kvm   present, and you may use it");
    } else if (errno == EACCES || errno == EPERM) {
        say(r,
            "/dev/kvm   present, but you may not open it; mend: sudo usermod -aG kvm $USER, then "
            "log in again");
    } else if (errno == ENOENT) {
        say(r, "/dev/kvm   absent: no hardware support, or none passed to this container (mend: "
               "docker run --device /dev/kvm); popf works without it");
    } else {
        say(r, "/dev/kvm   does not open: %s; popf works without it", strerror(errno));
    }
}

static void report_engines(struct report *r)
{
    static const char *const names[] = {"interp", "bt", "kvm"};
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        struct err e;
        if (engine_find(names[i], &e))
            say(r, "engine     %-6s available", names[i]);
        else
            say(r, "engine     %-6s not available: %s", names[i], e.msg);
    }
    char why[256] = "no engine works here";
    const struct engine_ops *ops = engine_auto(why, sizeof(why));
    say(r, "auto       takes %s", why); /* which begins with the engine's name */
    if (!ops)
        r->broken = true;
}

static void report_memory(struct report *r)
{
    struct sysinfo si;
    struct rlimit as;
    if (!sysinfo(&si))
        say(r, "memory     %llu MiB, %llu MiB free",
            (unsigned long long)((u64)si.totalram * si.mem_unit / MiB),
            (unsigned long long)((u64)(si.freeram + si.bufferram) * si.mem_unit / MiB));
    if (!getrlimit(RLIMIT_AS, &as) && as.rlim_cur != RLIM_INFINITY)
        say(r, "ulimit -v  %llu MiB of address space; mend: ulimit -v unlimited",
            (unsigned long long)(as.rlim_cur / MiB));
}

/* Stubs are written through one mapping of a memfd and run through another (cpu_fpu.c). */
static void report_executable(struct report *r)
{
    int fd = memfd_create("popf-doctor", MFD_CLOEXEC);
    void *p = MAP_FAILED;
    if (fd >= 0 && !ftruncate(fd, (off_t)PAGE_SIZE))
        p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) {
        munmap(p, PAGE_SIZE);
        say(r, "code       executable memory can be had");
    } else {
        r->broken = true;
        say(r,
            "code       no executable memory (%s): SELinux's execmem, PaX MPROTECT or a noexec "
            "memfd policy (sysctl vm.memfd_noexec) forbids it; allow it for popf",
            strerror(errno));
    }
    if (fd >= 0)
        close(fd);
}

static void report_direct(struct report *r)
{
    struct err e;
    if (direct_usable(&e) == 0)
        say(r, "direct     user code can run untranslated (engine bt)");
    else
        say(r,
            "direct     user code has to be translated: %s; mend: a container that allows ptrace",
            e.msg);
}

static void report_kernel(struct report *r)
{
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0)
        say(r, "membarrier works");
    else
        say(r,
            "membarrier forbidden (%s): popf falls back to mprotect, a little slower with "
            "--cpus 2 and more",
            strerror(errno));
    char line[128];
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, "Seccomp:", 8))
            say(r, "seccomp    %s",
                strchr(line, '0') ? "no filter"
                                  : "a filter is active (a container's); fine so far");
    if (f)
        fclose(f);
}

int popf_doctor(void (*line)(void *arg, const char *text), void *arg)
{
    struct report r = {.line = line, .arg = arg};
    report_cpu(&r);
    report_kvm(&r);
    report_engines(&r);
    report_memory(&r);
    report_executable(&r);
    report_direct(&r);
    report_kernel(&r);
    say(&r, "verdict    %s", r.broken ? "machines cannot run here: see above" : "ready");
    return r.broken ? -1 : 0;
}
