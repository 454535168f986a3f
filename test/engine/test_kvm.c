/*
 * test_kvm.c - tiny guests through the engine contract, under KVM and, to test the tests and the
 * contract itself, under the interpreter. Where KVM cannot be had only the latter, and the reason.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_ctl.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "engine/engine.h"
#include "engine/kvm/kvm.h"

#define RAM_SIZE 0xa0000u
#define MMIO     0xa0000u
#define ROM      0xf0000u
#define CODE     0x1000u
#define STACK    0x8000u

/* --- guest code: begin and end of what is assembled for a mode --- */

#define GUEST(name, mode, text)                                                                    \
    __asm__(".pushsection .rodata\n.code" #mode "\n" #name ":\n" text "\n" #name "_end:\n"         \
            ".code64\n.popsection\n");                                                             \
    extern const u8 name[], name##_end[]

/* --- a machine around one or two CPUs --- */

struct access {
    char what; /* 'i', 'o', 'r', 'w', 'R', 'W': ports, MMIO, MSRs; 'a': interrupt acknowledged */
    unsigned size;
    u64 addr, val;
};

struct machine {
    struct mem mem;
    struct cpu_model *model;
    const struct engine_ops *ops;
    struct engine *en;
    struct cpu *cpu[2];
    struct access log[64];
    unsigned nlog;
    int vector; /* raised by a write to port 0x20, taken once */
    u64 cr8, in_value;
    struct log trace;
    _Atomic unsigned round; /* of test_kick_races */
};

static void note(struct cpu *c, char what, u64 addr, unsigned size, u64 val)
{
    struct machine *m = c->world_arg;
    if (m->nlog < ARRAY_SIZE(m->log))
        m->log[m->nlog++] = (struct access){what, size, addr, val & size_mask(size)};
}

static u64 port_read(struct cpu *c, u16 port, unsigned size)
{
    struct machine *m = c->world_arg;
    note(c, 'i', port, size, m->in_value);
    return m->in_value++;
}

static void port_write(struct cpu *c, u16 port, unsigned size, u64 val)
{
    struct machine *m = c->world_arg;
    note(c, 'o', port, size, val);
    if (port == 0x20) {
        m->vector = (u8)val;
        cpu_event_set(c, EV_INTR);
    } else if (port == 0x21) {
        cpu_event_set(c, EV_NMI);
    } else if (port == 0x22) {
        cpu_event_set(c, EV_EXIT);
    }
}

static u64 mmio_read(struct cpu *c, gpa_t gpa, unsigned size)
{
    note(c, 'r', gpa, size, 0);
    return 0x8877665544332211 + (gpa & 0xff);
}

static void mmio_write(struct cpu *c, gpa_t gpa, unsigned size, u64 val)
{
    note(c, 'w', gpa, size, val);
}

static int msr_read(struct cpu *c, u32 msr, u64 *val)
{
    if (msr == MSR_IA32_APIC_BASE) {
        *val = 0xfee00900;
        return 0;
    }
    note(c, 'R', msr, 8, 0);
    *val = 0x1122334455667788;
    return msr == 0x802 || msr == MSR_IA32_TSC_DEADLINE || msr == 0x4b564d01 ? 0 : -1;
}

static int msr_write(struct cpu *c, u32 msr, u64 val)
{
    note(c, 'W', msr, 8, val);
    return msr == 0x80b || msr == MSR_IA32_TSC_DEADLINE || msr == 0x4b564d01 ? 0 : -1;
}

static u64 cr8_read(struct cpu *c)
{
    return ((struct machine *)c->world_arg)->cr8;
}

static void cr8_write(struct cpu *c, u64 val)
{
    ((struct machine *)c->world_arg)->cr8 = val;
}

static int intr_ack(struct cpu *c)
{
    struct machine *m = c->world_arg;
    cpu_event_clear(c, EV_INTR);
    note(c, 'a', 0, 8, (u64)m->vector);
    return m->vector;
}

static const struct cpu_world world = {
    .port_read = port_read,
    .port_write = port_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
    .intr_ack = intr_ack,
};

static void show(void *arg, const char *line)
{
    print_message("# %s\n", line);
}

static void close_machine(struct machine *m)
{
    for (unsigned i = 0; i < 2; i++)
        if (m->cpu[i]) {
            m->ops->cpu_detach(m->en, m->cpu[i]);
            cpu_free(m->cpu[i]);
        }
    if (m->en)
        m->ops->destroy(m->en);
    cpu_model_free(m->model);
    mem_free(&m->mem);
    free(m);
}

static void must(int r, const struct err *e)
{
    if (r)
        fail_msg("%s", e->msg);
}

/* A machine with two CPUs, the second waiting for SIPI. */
static struct machine *open_machine(void **state)
{
    struct machine *m = calloc(1, sizeof(*m));
    struct err e = {{0}};
    assert_non_null(m);
    m->trace = (struct log){.mask = getenv("TRACE") ? ~0u : 0, .sink = show};
    must(mem_init(&m->mem, &e), &e);
    must(mem_add_ram(&m->mem, 0, RAM_SIZE, false, &e), &e);
    must(mem_add_ram(&m->mem, ROM, 0x10000, true, &e), &e);
    struct cpu_model_config mc = {.tsc_hz = 2000000000, .apic_bus_hz = 1000000000, .ncpus = 2};
    m->model = cpu_model_new(&mc, &e);
    assert_non_null(m->model);
    struct engine_config cfg = {.mem = &m->mem, .model = m->model, .ncpus = 2, .log = &m->trace};
    m->ops = engine_find(*state, &e);
    assert_non_null(m->ops);
    m->en = m->ops->create(&cfg, &e);
    if (!m->en) {
        fail_msg("engine %s: %s", m->ops->name, e.msg);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct cpu *c = cpu_new(i, &m->mem, m->model, &world, m, &m->trace, &e);
        assert_non_null(c);
        must(m->ops->cpu_attach(m->en, c, &e), &e);
        m->cpu[i] = c;
    }
    return m;
}

static void load(struct machine *m, gpa_t at, const u8 *code, const u8 *end)
{
    must(mem_write(&m->mem, at, code, (u64)(end - code)), &(struct err){"code does not fit"});
}

/* Real mode at 0:CODE, the stack below STACK, interrupts off. */
static void start_real(struct machine *m, const u8 *code, const u8 *end)
{
    struct cpu *c = m->cpu[0];
    load(m, CODE, code, end);
    c->seg[CS].sel = 0;
    c->seg[CS].base = 0;
    c->reg[X86_SLOT_RIP] = CODE;
    c->reg[RSP] = STACK;
    cpu_update_mode(c);
    m->ops->put_state(m->en, c);
}

static void set_flat(struct cpu *c, bool code64)
{
    u32 data = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_DB | SEG_G;
    u32 code = SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_G;
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct seg){.sel = 16, .limit = UINT32_MAX, .attr = data};
    c->seg[CS].sel = 8;
    c->seg[CS].attr = code | (code64 ? SEG_L : SEG_DB);
}

static void start_flat(struct machine *m, const u8 *code, const u8 *end, bool code64)
{
    struct cpu *c = m->cpu[0];
    start_real(m, code, end);
    set_flat(c, code64);
    c->cr0 = CR0_PE | CR0_ET | CR0_NE;
    if (code64) {
        u64 entry[3] = {0x11000 | PTE_P | PTE_W, 0x12000 | PTE_P | PTE_W, PTE_P | PTE_W | PTE_PS};
        for (unsigned i = 0; i < 3; i++)
            mem_write(&m->mem, 0x10000 + 0x1000 * i, &entry[i], 8);
        c->cr0 |= CR0_PG | CR0_MP;
        c->cr3 = 0x10000;
        c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
        c->efer = EFER_LME | EFER_LMA;
    }
    cpu_update_mode(c);
    m->ops->put_state(m->en, c);
}

/* For the signal handler alone. */
static struct machine *volatile watched;
static volatile bool too_long;

static void on_alarm(int sig)
{
    too_long = true;
    for (unsigned i = 0; i < 2; i++) {
        cpu_event_set(watched->cpu[i], EV_EXIT);
        watched->ops->kick(watched->en, watched->cpu[i]);
    }
}

/* Runs CPU n, and makes struct cpu current. A guest that hangs is a failure. */
static struct engine_result run_cpu(struct machine *m, unsigned n, u64 max_insns)
{
    struct engine_result r;
    const struct cpu *c = m->cpu[n];
    watched = m;
    too_long = false;
    signal(SIGALRM, on_alarm);
    alarm(5);
    m->ops->run(m->en, m->cpu[n], max_insns, &r);
    alarm(0);
    if (r.exit == EXIT_ERROR)
        fail_msg("%s", r.err.msg);
    m->ops->get_state(m->en, m->cpu[n]);
    if (too_long)
        fail_msg("hangs at %x:%llx, EFLAGS %x", c->seg[CS].sel,
                 (unsigned long long)c->reg[X86_SLOT_RIP], cpu_flags(c));
    return r;
}

static void run_to(struct machine *m, enum engine_exit exit)
{
    assert_int_equal(run_cpu(m, 0, 0).exit, exit);
}

static void expect(struct machine *m, unsigned i, char what, u64 addr, unsigned size, u64 val)
{
    assert_true(i < m->nlog);
    assert_int_equal(m->log[i].what, what);
    assert_int_equal(m->log[i].addr, addr);
    assert_int_equal(m->log[i].size, size);
    assert_int_equal(m->log[i].val, val);
}

static void set_ivt(struct machine *m, unsigned vec, u16 ip)
{
    u32 entry = ip;
    mem_write(&m->mem, vec * 4, &entry, 4);
}

/* --- the tests --- */

GUEST(g_ports, 16,
      "mov $0x1234, %ax; out %al, $0x80; mov $0x3f8, %dx; out %ax, %dx; in $0x71, %al;"
      "mov %al, %bl; in %dx, %ax; mov %ax, %cx; in %dx, %eax; mov %eax, %esi; hlt");

static void test_ports(void **state)
{
    struct machine *m = open_machine(state);
    m->in_value = 0xaabbccdd;
    start_real(m, g_ports, g_ports_end);
    run_to(m, EXIT_HALT);
    expect(m, 0, 'o', 0x80, 1, 0x34);
    expect(m, 1, 'o', 0x3f8, 2, 0x1234);
    expect(m, 2, 'i', 0x71, 1, 0xdd);
    assert_int_equal(m->nlog, 5);
    assert_int_equal(m->cpu[0]->reg[RBX] & 0xff, 0xdd);
    assert_int_equal(m->cpu[0]->reg[RCX] & 0xffff, 0xccde);
    assert_int_equal(m->cpu[0]->reg[RSI], 0xaabbccdf);
    assert_int_equal(m->cpu[0]->reg[X86_SLOT_RIP], CODE + (g_ports_end - g_ports));
    close_machine(m);
}

GUEST(g_string, 16,
      "cld; mov $0x71, %dx; mov $0x2000, %di; mov $10, %cx; rep insb;"
      "mov $0x2000, %si; mov $5, %cx; rep outsw; hlt");

static void test_string_ports(void **state)
{
    struct machine *m = open_machine(state);
    u8 got[11];
    m->in_value = 1;
    start_real(m, g_string, g_string_end);
    run_to(m, EXIT_HALT);
    assert_int_equal(m->nlog, 15);
    expect(m, 0, 'i', 0x71, 1, 1);
    expect(m, 9, 'i', 0x71, 1, 10);
    expect(m, 10, 'o', 0x71, 2, 0x0201);
    expect(m, 14, 'o', 0x71, 2, 0x0a09);
    mem_read(&m->mem, 0x2000, got, sizeof(got));
    assert_memory_equal(got, "\1\2\3\4\5\6\7\10\11\12\0", 11);
    assert_int_equal(m->cpu[0]->reg[RDI], 0x200a);
    assert_int_equal(m->cpu[0]->reg[RSI], 0x200a);
    assert_int_equal(m->cpu[0]->reg[RCX] & 0xffff, 0);
    close_machine(m);
}

GUEST(g_mmio, 16,
      "mov $0xa000, %ax; mov %ax, %es; movl $0x12345678, %es:0x10; movb $0x9a, %es:0x21;"
      "mov %es:0x30, %ebx; mov %es:0x41, %cl; addw $1, %es:0x50; hlt");

static void test_mmio(void **state)
{
    struct machine *m = open_machine(state);
    start_real(m, g_mmio, g_mmio_end);
    run_to(m, EXIT_HALT);
    expect(m, 0, 'w', MMIO + 0x10, 4, 0x12345678);
    expect(m, 1, 'w', MMIO + 0x21, 1, 0x9a);
    expect(m, 2, 'r', MMIO + 0x30, 4, 0);
    expect(m, 3, 'r', MMIO + 0x41, 1, 0);
    expect(m, 4, 'r', MMIO + 0x50, 2, 0);
    expect(m, 5, 'w', MMIO + 0x50, 2, 0x2262);
    assert_int_equal(m->nlog, 6);
    assert_int_equal(m->cpu[0]->reg[RBX], 0x44332241);
    assert_int_equal(m->cpu[0]->reg[RCX] & 0xff, 0x52);
    close_machine(m);
}

GUEST(g_rom, 16,
      "mov $0xf000, %ax; mov %ax, %es; mov %es:0x20, %bl; movb $0x55, %es:0x20;"
      "mov %es:0x20, %bh; hlt");

static void test_rom(void **state)
{
    struct machine *m = open_machine(state);
    *mem_ptr(&m->mem, ROM + 0x20) = 0xaa;
    start_real(m, g_rom, g_rom_end);
    run_to(m, EXIT_HALT);
    assert_int_equal(m->cpu[0]->reg[RBX] & 0xffff, 0xaaaa);
    expect(m, 0, 'w', ROM + 0x20, 1, 0x55);
    close_machine(m);
}

/* The interrupt is raised at the OUT; BX counts what is executed before its handler. */
GUEST(g_intr, 16,
      "xor %bx, %bx; xor %si, %si; mov $0x30, %al; out %al, $0x20; inc %bx; inc %bx; inc %bx; sti;"
      "inc %bx; 1: test %si, %si; jz 1b; cli; hlt; jmp .;"
      ".org g_intr + 0x100, 0x90; mov %bx, %dx; inc %si; iret");

static void test_interrupt_waits_for_sti(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    set_ivt(m, 0x30, CODE + 0x100);
    start_real(m, g_intr, g_intr_end);
    run_to(m, EXIT_HALT);
    assert_int_equal(c->reg[RSI] & 0xffff, 1);
    assert_int_equal(c->reg[RBX] & 0xffff, 4);
    /* Not before STI, and its shadow covers one instruction more; software KVMs do not know of
     * shadows. */
    unsigned least = strcmp(m->ops->name, "kvm") ? 4 : 3;
    assert_in_range(c->reg[RDX] & 0xffff, least, 4);
    expect(m, 1, 'a', 0, 8, 0x30);
    assert_int_equal(m->nlog, 2);
    assert_false(cpu_wakeable(c));
    close_machine(m);
}

GUEST(g_wake, 16,
      "sti; hlt; inc %bx; hlt; inc %cx; cli; hlt;"
      ".org g_wake + 0x100, 0x90; inc %si; iret");

static void test_interrupt_wakes_halt(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    set_ivt(m, 0x31, CODE + 0x100);
    start_real(m, g_wake, g_wake_end);
    run_to(m, EXIT_HALT);
    run_to(m, EXIT_HALT); /* nothing has happened */
    assert_int_equal(c->reg[RBX], 0);
    for (unsigned i = 1; i <= 2; i++) {
        m->vector = 0x31;
        cpu_event_set(c, EV_INTR);
        assert_true(cpu_wakeable(c));
        run_to(m, EXIT_HALT);
        assert_int_equal(c->reg[RSI], i);
    }
    assert_int_equal(c->reg[RCX], 1);
    cpu_event_set(c, EV_INTR); /* IF is clear now */
    assert_false(cpu_wakeable(c));
    run_to(m, EXIT_HALT);
    assert_int_equal(c->reg[RSI], 2);
    close_machine(m);
}

GUEST(g_nmi, 16,
      "xor %si, %si; out %al, $0x21; 1: cmp $2, %si; jb 1b; inc %bx; cli; hlt; jmp .;"
      ".org g_nmi + 0x100, 0x90; inc %si; cmp $1, %si; jne 2f; out %al, $0x21; inc %di; 2: iret");

/* The second is raised inside the handler and comes after its IRET. */
static void test_nmi(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    set_ivt(m, 2, CODE + 0x100);
    start_real(m, g_nmi, g_nmi_end);
    run_to(m, EXIT_HALT);
    assert_int_equal(c->reg[RSI], 2);
    assert_int_equal(c->reg[RDI], 1);
    assert_int_equal(c->reg[RBX], 1);
    assert_false(c->nmi_blocked);
    close_machine(m);
}

GUEST(g_cpuid, 16,
      "xor %eax, %eax; cpuid; mov %ebx, 0x2000; mov %edx, 0x2004; mov %ecx, 0x2008;"
      "mov $1, %eax; cpuid; mov %ebx, 0x200c; mov %eax, 0x2010; hlt");

static void test_cpuid(void **state)
{
    struct machine *m = open_machine(state);
    u32 got[5], want[4];
    start_real(m, g_cpuid, g_cpuid_end);
    run_to(m, EXIT_HALT);
    mem_read(&m->mem, 0x2000, got, sizeof(got));
    assert_memory_equal(got, cpu_model_vendor(m->model), 12);
    cpu_cpuid(m->cpu[0], 1, 0, want);
    assert_int_equal(got[3] >> 24, 0);
    assert_int_equal(got[4], want[0]);
    close_machine(m);
}

/* x2APIC, TSC deadline and paravirtual clock belong to the world; STAR and MTRRdefType do not. */
GUEST(g_msr, 16,
      "mov $0x802, %ecx; rdmsr; mov %eax, %esi; mov %edx, %edi;"
      "mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr;"
      "mov $0x6e0, %ecx; mov $0x1234, %eax; mov $5, %edx; wrmsr;"
      "mov $0x4b564d01, %ecx; mov $0x7001, %eax; xor %edx, %edx; wrmsr;"
      "mov $0x2ff, %ecx; mov $0xc06, %eax; wrmsr; xor %eax, %eax; rdmsr; mov %eax, %ebp;"
      "mov $0xc0000081, %ecx; mov $0x55aa, %eax; mov $0x230010, %edx; wrmsr; rdmsr;"
      "mov $0x12345, %ecx; wrmsr; hlt;"
      ".org g_msr + 0x200, 0x90; mov $0x600d, %bx; hlt");

static void test_msr(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    set_ivt(m, EXC_GP, CODE + 0x200);
    start_real(m, g_msr, g_msr_end);
    run_to(m, EXIT_HALT);
    expect(m, 0, 'R', 0x802, 8, 0);
    expect(m, 1, 'W', 0x80b, 8, 0);
    expect(m, 2, 'W', MSR_IA32_TSC_DEADLINE, 8, 0x500001234);
    expect(m, 3, 'W', 0x4b564d01, 8, 0x7001);
    expect(m, 4, 'W', 0x12345, 8, 0x00230010000055aa);
    assert_int_equal(c->reg[RSI], 0x55667788);
    assert_int_equal(c->reg[RDI], 0x11223344);
    assert_int_equal(c->mtrr_def_type, 0xc06);
    assert_int_equal(c->reg[RBP], 0xc06);
    assert_int_equal(c->star, 0x00230010000055aa);
    assert_int_equal(c->reg[RBX] & 0xffff, 0x600d);
    close_machine(m);
}

GUEST(g_triple, 32, "ud2; hlt");

static void test_triple_fault(void **state)
{
    struct machine *m = open_machine(state);
    m->cpu[0]->idtr.limit = 0;
    start_flat(m, g_triple, g_triple_end, false);
    run_to(m, EXIT_SHUTDOWN);
    run_to(m, EXIT_SHUTDOWN);
    cpu_reset(m->cpu[0], false); /* and it can be started again */
    start_real(m, g_wake, g_wake_end);
    run_to(m, EXIT_HALT);
    close_machine(m);
}

GUEST(g_protected, 32,
      "mov $0x12345678, %eax; push %eax; pop %ebx; lea 0x10000(%esp), %ecx;"
      "mov $0xa0000, %edi; mov %ebx, (%edi); pushf; pop %edx; hlt");

static void test_protected(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    start_flat(m, g_protected, g_protected_end, false);
    run_to(m, EXIT_HALT);
    assert_int_equal(c->reg[RBX], 0x12345678);
    assert_int_equal(c->reg[RCX], STACK + 0x10000);
    assert_int_equal(c->mode, X86_MODE32);
    expect(m, 0, 'w', MMIO, 4, 0x12345678);
    close_machine(m);
}

/* Real mode to protected mode to long mode, as a kernel does it. */
GUEST(
    g_climb, 16,
    "lgdtl 0x1000 + (9f - g_climb); mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl $8, $(0x1000 "
    "+ 1f - g_climb);"
    ".code32; 1: mov $16, %eax; mov %eax, %ds; mov %eax, %ss; mov $0x10000, %eax; mov %eax, %cr3;"
    "mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4; mov $0xc0000080, %ecx; rdmsr;"
    "or $0x100, %eax; wrmsr; mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0;"
    "ljmpl $24, $(0x1000 + 2f - g_climb);"
    ".code64; 2: mov $0x123456789abcdef0, %rbx; mov %cr8, %rdi; mov $5, %eax; mov %rax, %cr8; hlt;"
    ".balign 8; 8: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff;"
    "9: .word 31; .long 0x1000 + 8b - g_climb");

static void test_mode_changes(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    start_flat(m, g_protected, g_protected_end, true); /* writes the page tables */
    cpu_reset(c, false);
    m->cr8 = 3;
    start_real(m, g_climb, g_climb_end);
    run_to(m, EXIT_HALT);
    assert_int_equal(c->mode, X86_MODE64);
    assert_int_equal(c->reg[RBX], 0x123456789abcdef0);
    assert_int_equal(c->reg[RDI], 3);
    assert_int_equal(m->cr8, 5);
    assert_true(c->efer & EFER_LMA);
    assert_int_equal(c->seg[CS].sel, 24);
    close_machine(m);
}

/* CMPXCHG16B and SSE4 are what software emulators in KVM do not know. */
GUEST(g_long, 64,
      "mov $0x2000, %edi; movq $1, (%rdi); movq $2, 8(%rdi); mov $1, %eax; mov $2, %edx;"
      "mov $0x1122334455667788, %rbx; mov $4, %ecx; cmpxchg16b (%rdi); setz %sil;"
      "movdqu (%rdi), %xmm3; paddq %xmm3, %xmm3; movdqu %xmm3, 16(%rdi);"
      "mov $0xa0000, %r8d; mov (%r8), %r9; hlt");

static void test_long(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    u64 got[4];
    start_flat(m, g_long, g_long_end, true);
    run_to(m, EXIT_HALT);
    mem_read(&m->mem, 0x2000, got, sizeof(got));
    assert_int_equal(c->reg[RSI] & 0xff, 1);
    assert_int_equal(got[0], 0x1122334455667788);
    assert_int_equal(got[1], 4);
    assert_int_equal(got[2], 0x22446688aaccef10);
    assert_int_equal(got[3], 8);
    assert_int_equal(c->reg[R9], 0x8877665544332211);
    u8 *fpu = aligned_alloc(64, align_up(cpu_fpu_size(c), 64));
    cpu_fpu_get(c, fpu);
    assert_memory_equal(fpu + 160 + 3 * 16, got + 2, 16); /* XMM3 in the XSAVE area */
    free(fpu);
    close_machine(m);
}

GUEST(g_step, 16, "inc %bx; inc %bx; inc %bx; mov $7, %cx; hlt; jmp .");

static void test_single_instruction(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    start_real(m, g_step, g_step_end);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(run_cpu(m, 0, 1).exit, EXIT_BUDGET);
        assert_int_equal(c->reg[RBX], i);
        assert_int_equal(c->reg[X86_SLOT_RIP], CODE + i);
    }
    run_to(m, EXIT_HALT);
    assert_int_equal(c->reg[RCX], 7);
    close_machine(m);
}

/* Everything that a run does not touch comes back as it was put in. */
GUEST(g_halt, 64, "hlt");

static void test_state_survives(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    start_flat(m, g_halt, g_halt_end, true);
    for (unsigned i = 0; i < 16; i++)
        c->reg[i] = 0x0101010101010101 * (i + 1);
    cpu_set_flags(c, FLAG_CF | FLAG_ZF | FLAG_OF | FLAG_AC | FLAG_ID);
    c->cr2 = 0x123456789000;
    c->lstar = 0xffffffff81000000;
    c->star = 0x23001000000000;
    c->sfmask = 0x47700;
    c->kernel_gs_base = 0xffff888000000000;
    c->seg[GS].base = 0x7fff12345000;
    c->sysenter_eip = 0x1234;
    c->pat = 0x0007010600070106;
    c->gdtr = (struct dtable){0x5000, 0x7f};
    c->dr[1] = 0xdeadbeef;
    u8 *fpu = aligned_alloc(64, align_up(cpu_fpu_size(c), 64));
    cpu_fpu_get(c, fpu);
    memset(fpu + 160, 0x5a, 256); /* XMM */
    fpu[512] |= XCR0_X87 | XCR0_SSE;
    assert_int_equal(cpu_fpu_set(c, fpu), 0);
    u32 flags = cpu_flags(c);
    u64 was[18];
    memcpy(was, c->reg, sizeof(was));
    m->ops->put_state(m->en, c);
    run_to(m, EXIT_HALT);
    was[X86_SLOT_RIP]++;
    assert_memory_equal(c->reg, was, sizeof(was));
    assert_int_equal(cpu_flags(c), flags);
    assert_int_equal(c->cr2, 0x123456789000);
    assert_int_equal(c->lstar, 0xffffffff81000000);
    assert_int_equal(c->star, 0x23001000000000);
    assert_int_equal(c->sfmask, 0x47700);
    assert_int_equal(c->kernel_gs_base, 0xffff888000000000);
    assert_int_equal(c->seg[GS].base, 0x7fff12345000);
    assert_int_equal(c->sysenter_eip, 0x1234);
    assert_int_equal(c->pat, 0x0007010600070106);
    assert_int_equal(c->gdtr.base, 0x5000);
    assert_int_equal(c->dr[1], 0xdeadbeef);
    u8 *after = aligned_alloc(64, align_up(cpu_fpu_size(c), 64));
    cpu_fpu_get(c, after);
    assert_memory_equal(after + 160, fpu + 160, 256);
    assert_memory_equal(after + 24, fpu + 24, 4); /* MXCSR */
    free(after);
    free(fpu);
    close_machine(m);
}

GUEST(g_tsc, 16, "rdtsc; mov %eax, 0x2000; mov %edx, 0x2004; hlt");

static void test_tsc(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[0];
    u64 got, before = __builtin_ia32_rdtsc();
    c->tsc_offset = 1000 - before;
    start_real(m, g_tsc, g_tsc_end);
    run_to(m, EXIT_HALT);
    mem_read(&m->mem, 0x2000, &got, 8);
    /* tsc_offset is what the guest really has. */
    assert_in_range(got, before + c->tsc_offset, cpu_tsc(c));
    close_machine(m);
}

GUEST(g_spin, 16, "jmp .");

static void *kick_later(void *arg)
{
    struct machine *m = arg;
    usleep(20000);
    cpu_event_set(m->cpu[0], EV_EXIT);
    m->ops->kick(m->en, m->cpu[0]);
    return NULL;
}

static void test_kick(void **state)
{
    struct machine *m = open_machine(state);
    start_real(m, g_spin, g_spin_end);
    for (unsigned i = 0; i < 3; i++) {
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, kick_later, m), 0);
        run_to(m, EXIT_INTERRUPTED);
        assert_int_equal(m->cpu[0]->reg[X86_SLOT_RIP], CODE);
        pthread_join(t, NULL);
    }
    close_machine(m);
}

#define RACES 200

static void *kick_at_random(void *arg)
{
    struct machine *m = arg;
    for (unsigned i = 1; i <= RACES; i++) {
        while (atomic_load(&m->round) < i)
            ;
        for (volatile unsigned wait = i * 7919 % 20000; wait; wait--)
            ;
        cpu_event_set(m->cpu[0], EV_EXIT);
        m->ops->kick(m->en, m->cpu[0]);
    }
    return NULL;
}

/* A kick that comes while the guest is being entered is not lost. */
static void test_kick_races(void **state)
{
    struct machine *m = open_machine(state);
    pthread_t t;
    start_real(m, g_spin, g_spin_end);
    assert_int_equal(pthread_create(&t, NULL, kick_at_random, m), 0);
    for (unsigned i = 1; i <= RACES; i++) {
        atomic_store(&m->round, i);
        run_to(m, EXIT_INTERRUPTED);
    }
    pthread_join(t, NULL);
    close_machine(m);
}

GUEST(g_exit, 16, "mov $7, %al; out %al, $0x22; in $0x71, %al; hlt");

/* A stop asked for during an OUT comes after it, with nothing half done. */
static void test_exit_at_port(void **state)
{
    struct machine *m = open_machine(state);
    m->in_value = 0x42;
    start_real(m, g_exit, g_exit_end);
    run_to(m, EXIT_INTERRUPTED);
    assert_int_equal(m->cpu[0]->reg[X86_SLOT_RIP], CODE + 4);
    m->ops->put_state(m->en, m->cpu[0]);
    run_to(m, EXIT_HALT);
    assert_int_equal(m->nlog, 2);
    assert_int_equal(m->cpu[0]->reg[RAX] & 0xff, 0x42);
    close_machine(m);
}

GUEST(g_sipi, 16, "mov %cs, %bx; mov %bx, %ds; incw 0x80; mov 0x80, %cx; hlt");

static void test_init_sipi(void **state)
{
    struct machine *m = open_machine(state);
    struct cpu *c = m->cpu[1];
    load(m, 0x9000, g_sipi, g_sipi_end);
    assert_int_equal(run_cpu(m, 1, 0).exit, EXIT_HALT);
    for (unsigned i = 1; i <= 2; i++) {
        cpu_event_set(c, EV_INIT);
        assert_int_equal(run_cpu(m, 1, 0).exit, EXIT_HALT);
        assert_int_equal(c->activity, CPU_WAIT_SIPI);
        atomic_store(&c->sipi_vector, 9);
        cpu_event_set(c, EV_SIPI);
        assert_true(cpu_wakeable(c));
        assert_int_equal(run_cpu(m, 1, 0).exit, EXIT_HALT);
        assert_int_equal(c->activity, CPU_HALTED);
        assert_int_equal(c->reg[RBX], 0x900);
        assert_int_equal(c->reg[RCX], i);
    }
    close_machine(m);
}

static void test_measure(void **state)
{
    char why[200] = "";
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    kvm_measure(why, sizeof(why));
    clock_gettime(CLOCK_MONOTONIC, &b);
    print_message("# kvm_measure: %s\n", why);
    assert_true(strlen(why) > 10 && !strchr(why, '\n'));
    assert_true((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 2000);
}

/* clang-format off */
#define EACH_TEST(T) \
    T(test_ports) T(test_string_ports) T(test_mmio) T(test_rom) \
    T(test_interrupt_waits_for_sti) T(test_interrupt_wakes_halt) T(test_nmi) T(test_cpuid) \
    T(test_msr) T(test_triple_fault) T(test_protected) T(test_mode_changes) \
    T(test_long) T(test_single_instruction) T(test_state_survives) T(test_tsc) \
    T(test_kick) T(test_kick_races) T(test_exit_at_port) T(test_init_sipi)
/* clang-format on */
#define UNDER_INTERP(test) {#test "/interp", test, NULL, NULL, "interp"},
#define UNDER_KVM(test)    {#test "/kvm", test, NULL, NULL, "kvm"},

/* False, and the reason is shown, where no KVM engine can be created. */
static bool have_kvm(void)
{
    struct engine_config cfg = {.ncpus = 1};
    struct err e;
    struct engine *en = engine_kvm.create(&cfg, &e);
    if (en)
        engine_kvm.destroy(en);
    else
        print_message("# SKIP the tests under KVM: %s\n", e.msg);
    return en;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measure),
                                       EACH_TEST(UNDER_INTERP) EACH_TEST(UNDER_KVM)};
    const size_t without_kvm = 1 + (ARRAY_SIZE(tests) - 1) / 2;
    cmocka_set_message_output(CM_OUTPUT_TAP);
    cmocka_set_test_filter(getenv("TEST")); /* one of them, for debugging */
    return _cmocka_run_group_tests("tests", tests, have_kvm() ? ARRAY_SIZE(tests) : without_kvm,
                                   NULL, NULL);
}
