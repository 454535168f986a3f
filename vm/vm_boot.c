/*
 * Power-on: CPUs and devices reset, what firmware would leave behind, the kernel loaded, the first
 * CPU at its entry.
 */
#include "vm/vm.h"

#include <stdlib.h>
#include <string.h>

#include "block/block.h"
#include "boot/disk.h"
#include "cpu/cpu_mem.h"
#include "vm/acpi.h"
#include "vm/vm_virtio.h"

#define MTRR_ENABLED   BIT(11)
#define MTRR_WRITEBACK 6

/* RAM is zero again and costs nothing; code decoded from it is stale. */
static void drop_memory(struct mem *m)
{
    for (unsigned i = 0; i < m->nregions; i++)
        if (!m->region[i].rom)
            mem_discard(m->region[i].host, m->region[i].size);
    for (u64 page = 0; page < m->npages; page++)
        if (mem_has_code(m, page))
            mem_code_written(m, page, 0, PAGE_SIZE);
}

static void reset_cpu(struct vcpu *v)
{
    struct cpu *c = v->cpu;
    cpu_reset(c, false);
    atomic_store(&c->events, 0);
    c->mtrr_def_type = MTRR_ENABLED | MTRR_WRITEBACK;
    if (c->id)
        c->activity = CPU_WAIT_SIPI;
    lapic_reset(&v->lapic);
    lapic_setup_virtual_wire(&v->lapic);
    kvmclock_reset(&v->kvmclock);
}

static void load_seg(struct seg *s, const struct boot_seg *b)
{
    s->sel = b->sel;
    s->attr = b->attr;
    s->base = b->base;
    s->limit = b->limit;
}

static void enter_kernel(struct cpu *c, const struct boot_state *st)
{
    memset(c->reg, 0, sizeof(c->reg));
    c->reg[RAX] = st->rax;
    c->reg[RBX] = st->rbx;
    c->reg[RCX] = st->rcx;
    c->reg[RDX] = st->rdx;
    c->reg[RSI] = st->rsi;
    c->reg[RDI] = st->rdi;
    c->reg[RBP] = st->rbp;
    c->reg[RSP] = st->rsp;
    c->reg[X86_SLOT_RIP] = st->rip;
    c->cr0 = st->cr0;
    c->cr3 = st->cr3;
    c->cr4 = st->cr4;
    c->efer = st->efer;
    load_seg(&c->seg[CS], &st->cs);
    load_seg(&c->seg[DS], &st->ds);
    load_seg(&c->seg[ES], &st->es);
    load_seg(&c->seg[FS], &st->fs);
    load_seg(&c->seg[GS], &st->gs);
    load_seg(&c->seg[SS], &st->ss);
    load_seg(&c->tr, &st->tr);
    load_seg(&c->ldtr, &st->ldtr);
    c->gdtr = (struct dtable){.base = st->gdt.base, .limit = st->gdt.limit};
    c->idtr = (struct dtable){.base = st->idt.base, .limit = st->idt.limit};
    c->cpl = 0;
    c->activity = CPU_RUNNING;
    cpu_set_flags(c, (u32)st->rflags);
    cpu_tlb_flush(c);
    cpu_update_mode(c);
}

static int read_disk(void *arg, u64 off, void *buf, u64 len)
{
    return block_read(arg, off, buf, len);
}

/* Without a kernel of the user's: what the first disk would boot. */
static int look_at_disk(struct popf *vm, struct boot_config *cfg, struct disk_boot *b, char **line,
                        struct err *e)
{
    struct block *block = vm_virtio_boot_disk(vm);
    struct block_info info;
    if (!block)
        return err_set(e, "no kernel was given, and no disk to boot from");
    block_info(block, &info);
    const char *name = vm->cfg.disks[0].file;
    struct disk d = {.size = info.size, .read = read_disk, .arg = block, .name = name};
    if (disk_boot_find(&d, min_u64(vm->ram_low, 1 * GiB), b, e))
        return -1;
    *line = disk_boot_cmdline(b, vm->cfg.cmdline);
    if (!*line)
        return err_set(e, "out of memory");
    log_info(&vm->log, "booting from disk '%s': %s; %s", name, b->from, *line);
    cfg->kernel = (struct boot_src){.path = name, .data = b->kernel, .size = b->kernel_size};
    if (!vm->cfg.initrd && b->initrd_size)
        cfg->initrd = (struct boot_src){.path = name, .data = b->initrd, .size = b->initrd_size};
    cfg->cmdline = *line;
    return 0;
}

static int load_kernel(struct popf *vm, gpa_t rsdp, struct boot_state *st, struct err *e)
{
    struct disk_boot disk = {0};
    char *line = NULL;
    struct boot_config cfg = {
        .kernel = {.path = vm->cfg.kernel},
        .initrd = {.path = vm->cfg.initrd},
        .cmdline = vm->cfg.cmdline,
        .mem = &vm->mem,
        .ram_low = vm->ram_low,
        .ram_high = vm->ram_high,
        .rsdp = rsdp,
        .entry = vm->entry,
        .log = &vm->log,
        .progress = vm->cfg.progress,
        .progress_arg = vm->cfg.progress_arg,
    };
    int rc = vm->cfg.kernel ? 0 : look_at_disk(vm, &cfg, &disk, &line, e);
    if (!rc)
        rc = boot_load(&cfg, st, e);
    disk_boot_free(&disk);
    free(line);
    return rc;
}

int vm_power_on(struct popf *vm, struct err *e)
{
    vm_virtio_reset(vm); /* first: devices write to memory */
    if (vm->used)
        drop_memory(&vm->mem);
    vm->used = true;
    vm_pc_reset(&vm->pc);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        reset_cpu(&vm->vcpu[i]);
    vm_clock_zero_tsc(vm);
    memset(vm->in, 0, sizeof(vm->in));

    gpa_t rsdp;
    struct boot_state st = {0};
    if (vm_pc_build_acpi(vm, &rsdp, e) || load_kernel(vm, rsdp, &st, e))
        return -1;
    log_info(&vm->log, "entering the kernel at %#llx (%s)", (unsigned long long)st.rip, st.how);
    vm->pc.boots_linux = strcmp(st.how, "multiboot") != 0;
    enter_kernel(vm->vcpu[0].cpu, &st);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm->ops->put_state(vm->engine, vm->vcpu[i].cpu);
    return 0;
}
