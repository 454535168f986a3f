/*
 * The public functions that look into a machine.
 */
#include "vm/vm.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/disk.h"
#include "cpu/cpu_mem.h"
#include "vm/vm_virtio.h"

static int fail(struct popf_error *err, const char *fmt, ...) PRINTF(2, 3);

static int fail(struct popf_error *err, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
        va_end(ap);
    }
    return -1;
}

const char *popf_version(void)
{
    return POPF_VERSION;
}

bool popf_is_disk(const char *file)
{
    enum { HEAD = 4096 };
    u8 head[HEAD];
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t n = fd >= 0 ? read(fd, head, sizeof(head)) : -1;
    if (fd >= 0)
        close(fd);
    return n > 0 && disk_looks_like(head, (u64)n);
}

const char *popf_cpu_features(void)
{
    return cpu_feature_names();
}

const char *popf_engine(const struct popf *vm)
{
    return vm->ops->name;
}

uint32_t popf_trace_mask(const char *list, struct popf_error *err)
{
    u32 mask = 0;
    while (*list) {
        char name[32];
        size_t len = strcspn(list, ",");
        snprintf(name, sizeof(name), "%.*s", (int)min_u64(len, sizeof(name)), list);
        u32 bit = len < sizeof(name) ? log_category(name) : 0;
        if (!bit) {
            fail(err, "unknown trace category \"%s\": there are %s", name, log_categories());
            return 0;
        }
        mask |= bit;
        list += len + (list[len] == ',');
    }
    if (!mask)
        fail(err, "no trace category given: there are %s", log_categories());
    return mask;
}

const char *popf_trace_names(void)
{
    return log_categories();
}

/*
 * Takes ctl_lock if the CPU stands; the caller releases it. Nothing starts a CPU that stands but
 * popf_start(), popf_resume() and a reset, and all of them need that lock.
 */
static struct vcpu *hold_cpu(struct popf *vm, unsigned cpu, struct popf_error *err)
{
    if (cpu >= vm->cfg.cpus) {
        fail(err, "there is no CPU %u: the machine has %u", cpu, vm->cfg.cpus);
        return NULL;
    }
    pthread_mutex_lock(&vm->ctl_lock);
    pthread_mutex_lock(&vm->lock);
    unsigned threads = 0;
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        threads += vm->vcpu[i].has_thread;
    bool stands =
        vm->life == VM_NEW || ((vm->pauses || vm->life == VM_ENDED) && vm->parked >= threads);
    pthread_mutex_unlock(&vm->lock);
    if (stands)
        return &vm->vcpu[cpu];
    pthread_mutex_unlock(&vm->ctl_lock);
    fail(err, "the machine is running: pause it first");
    return NULL;
}

int popf_get_regs(struct popf *vm, unsigned cpu, struct popf_regs *regs, struct popf_error *err)
{
    struct vcpu *v = hold_cpu(vm, cpu, err);
    if (!v)
        return -1;
    vm_cpu_get_regs(v, regs);
    pthread_mutex_unlock(&vm->ctl_lock);
    return 0;
}

int popf_set_regs(struct popf *vm, unsigned cpu, const struct popf_regs *regs,
                  struct popf_error *err)
{
    struct vcpu *v = hold_cpu(vm, cpu, err);
    if (!v)
        return -1;
    struct err e;
    pthread_mutex_lock(&vm->dev_lock); /* CR8 is the LAPIC's */
    int rc = vm_cpu_set_regs(v, regs, &e);
    pthread_mutex_unlock(&vm->dev_lock);
    pthread_mutex_unlock(&vm->ctl_lock);
    return rc ? fail(err, "%s", e.msg) : 0;
}

static int not_ram(struct popf_error *err, uint64_t gpa, size_t len)
{
    return fail(err, "guest-physical memory at %#llx, %zu bytes, is not all RAM",
                (unsigned long long)gpa, len);
}

int popf_read_memory(struct popf *vm, uint64_t gpa, void *buf, size_t len, struct popf_error *err)
{
    return mem_read(&vm->mem, gpa, buf, len) ? not_ram(err, gpa, len) : 0;
}

int popf_write_memory(struct popf *vm, uint64_t gpa, const void *buf, size_t len,
                      struct popf_error *err)
{
    return mem_write(&vm->mem, gpa, buf, len) ? not_ram(err, gpa, len) : 0;
}

int popf_read_linear(struct popf *vm, unsigned cpu, uint64_t la, void *buf, size_t len,
                     struct popf_error *err)
{
    struct vcpu *v = hold_cpu(vm, cpu, err);
    if (!v)
        return -1;
    vm->ops->get_state(vm->engine, v->cpu);
    bool ok = true;
    for (size_t done = 0; ok && done < len;) {
        unsigned n = (unsigned)min_u64(len - done, PAGE_SIZE - ((la + done) & PAGE_MASK));
        ok = cpu_peek(v->cpu, la + done, (u8 *)buf + done, n);
        done += n;
    }
    pthread_mutex_unlock(&vm->ctl_lock);
    return ok ? 0
              : fail(err, "linear memory at %#llx, %zu bytes, is not all mapped to RAM",
                     (unsigned long long)la, len);
}

int popf_balloon(struct popf *vm, uint64_t bytes, struct popf_error *err)
{
    struct err e;
    pthread_mutex_lock(&vm->dev_lock);
    int rc = vm_virtio_balloon(vm, bytes, &e);
    pthread_mutex_unlock(&vm->dev_lock);
    return rc ? fail(err, "%s", e.msg) : 0;
}

/* Bytes of guest RAM that the host holds. */
static u64 resident(const struct mem *m)
{
    u64 pages = 0;
    for (unsigned i = 0; i < m->nregions; i++) {
        const struct mem_region *r = &m->region[i];
        u8 in_core[4096];
        u64 step = sizeof(in_core) * PAGE_SIZE;
        for (u64 off = 0; off < r->size; off += step) {
            u64 n = min_u64(step, r->size - off);
            if (mincore(r->host + off, n, in_core))
                continue;
            for (u64 p = 0; p < n / PAGE_SIZE; p++)
                pages += in_core[p] & 1;
        }
    }
    return pages * PAGE_SIZE;
}

void popf_stats(struct popf *vm, struct popf_stats *st)
{
    *st = (struct popf_stats){.memory = mem_ram_size(&vm->mem), .resident = resident(&vm->mem)};
    pthread_mutex_lock(&vm->dev_lock);
    st->guest_ns = clock_now(&vm->clk.clock);
    pthread_mutex_lock(&vm->lock);
    st->resets = vm->resets;
    pthread_mutex_unlock(&vm->lock);
    pthread_mutex_unlock(&vm->dev_lock);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        struct vcpu *v = &vm->vcpu[i];
        st->insns += __atomic_load_n(&v->cpu->insns, __ATOMIC_RELAXED);
        st->halts += atomic_load(&v->halts);
        st->port_io += atomic_load(&v->port_io);
        st->mmio += atomic_load(&v->mmio);
        st->msrs += atomic_load(&v->msrs);
        st->interrupts += atomic_load(&v->interrupts);
    }
}

void popf_engine_stats(struct popf *vm, void (*line)(void *arg, const char *text), void *arg)
{
    for (unsigned i = 0; vm->ops->stats && i < vm->cfg.cpus; i++)
        vm->ops->stats(vm->engine, vm->vcpu[i].cpu, line, arg);
}
