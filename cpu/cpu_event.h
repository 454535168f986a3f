/*
 * cpu_event.h - exceptions and interrupts on their way into the guest (SDM vol. 3A, chapter 6).
 */
#ifndef POPF_CPU_EVENT_H
#define POPF_CPU_EVENT_H

#include "cpu/cpu.h"

/*
 * The engine's loop, after an unwind with c->exc.pending (RIP is at the faulting instruction):
 * merges it with an exception whose delivery it interrupted (#DF; triple fault: activity becomes
 * CPU_SHUTDOWN, nothing pending). Then cpu_deliver().
 */
void cpu_exc_merge(struct cpu *c);

/* Delivers c->exc through the IDT (IVT in real mode). May throw: call with c->unwind set. */
void cpu_deliver(struct cpu *c);

/* INT n, INT3, INTO, INT1 as instructions: delivers at once (V86 and IOPL rules included). */
void cpu_soft_int(struct cpu *c, unsigned vec, bool int3_or_into);

/*
 * Between instructions, when cpu_event_pending(): takes the most urgent of INIT, SIPI, debug traps,
 * NMI, maskable interrupt that may be taken now. May throw. Wakes a halted CPU. EV_EXIT is left to
 * the engine. Interrupts held back by IF, the shadow or TPR stay pending where they are.
 */
void cpu_service_events(struct cpu *c);

/*
 * An NMI arrives; wake or kick the CPU then. Any thread. A CPU takes an NMI at once and latches one
 * more while the handler runs; since this one may be late to look, it remembers two until then.
 */
void cpu_nmi_raise(struct cpu *c);

/* One is taken. True if another one is pending. */
bool cpu_nmi_take(struct cpu *c);

/* IRET: of those that came while the handler ran, one is left. */
void cpu_nmi_unblock(struct cpu *c);

/* True if a halted CPU has something to wake up for. */
bool cpu_wakeable(const struct cpu *c);

/* Code breakpoints: throws #DB (fault) if DR0-DR3 has one at linear address la and RF is clear. */
void cpu_check_code_breakpoint(struct cpu *c, gva_t la);

/* Data and I/O breakpoints: notes a hit in c->db_pending, to be raised after the instruction. */
void cpu_note_data_breakpoint(struct cpu *c, gva_t la, unsigned size, bool write);
void cpu_note_io_breakpoint(struct cpu *c, u16 port, unsigned size);

/* True if some DR7-enabled data breakpoint lies on this page: it must not enter the TLB. */
bool cpu_page_watched(const struct cpu *c, gva_t page);

/* After an instruction that was executed with TF set, or that hit breakpoints: raises #DB. */
void cpu_debug_trap(struct cpu *c, u32 dr6_bits);

#endif
