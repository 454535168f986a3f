/*
 * cpu_paging.h - the page walker (SDM vol. 3A, chapter 4), and what flushes the TLBs filled from
 * it.
 */
#ifndef POPF_CPU_PAGING_H
#define POPF_CPU_PAGING_H

#include "cpu/cpu.h"

/* struct cpu.paging: the format of the tables that CR3 points at. */
enum cpu_paging { PAGING_NONE, PAGING_32, PAGING_32_PSE, PAGING_PAE, PAGING_4LEVEL };

/* What a walk is for: PF_W, PF_U and PF_I, and these. */
#define WALK_SMAP (1u << 30) /* supervisor data access, user pages denied */
#define WALK_PEEK (1u << 31) /* no rights asked, and A and D left alone */

struct walk {
    gpa_t gpa;     /* of the byte asked for */
    u32 err;       /* page-fault error code, when the walk failed */
    u8 meta;       /* of struct tlb_index */
    bool writable; /* the same asker may write, too, and D is set already */
    u64 rights;    /* WALK_PEEK: W and U of all levels, NX of any, A and D of the last (PTE_x) */
};

/* Translates la (canonical; below 2^32 outside long mode), setting A and D. False: w->err. */
bool cpu_walk(struct cpu *c, gva_t la, u32 access, struct walk *w);

/* Derives paging, pte_rsvd and large_rsvd if CR0, CR4 or EFER have changed. */
void cpu_paging_update(struct cpu *c);

/* Loads the four PDPTE registers from cr3; false if a reserved bit is set (and loads nothing). */
bool cpu_load_pdptes(struct cpu *c, u64 cr3);

/* What a MOV to CR3 flushes: all but global pages. */
void cpu_tlb_flush_nonglobal(struct cpu *c);

/* CR3 is loaded while CR4.PCIDE = 1. `noflush`: what is known for this PCID stays. */
void cpu_tlb_switch(struct cpu *c, u64 cr3, bool noflush);

/* A slot of a TLB or ITLB is about to hold the page of la, from a guest page as `meta` says. */
void cpu_tlb_note(struct cpu *c, struct tlb_index *x, unsigned slot, gva_t la, u8 meta);

/* la may lie in a large page that a TLB holds a part of. */
bool cpu_tlb_large_seen(const struct cpu *c, gva_t la);

/* A code position in the page of la, which is at gpa and has this struct tlb_index meta, is about
 * to be remembered. */
void cpu_tlb_note_code(struct cpu *c, gva_t la, gpa_t gpa, u8 meta);

/* All TLBs, whatever the index says: for memory that has never been initialised. */
void cpu_tlb_init(struct cpu *c);

/* After EFLAGS.AC, CR0.AM, CR4.SMAP or CPL changed: points c->tlb at the TLB for them. */
static inline void cpu_select_tlb(struct cpu *c)
{
    enum tlb_mode m;
    if (c->cpl == 3)
        m = c->cr0 & CR0_AM && c->eflags & FLAG_AC ? TLB_STRICT : TLB_USER;
    else
        m = c->cr4 & CR4_SMAP && !(c->eflags & FLAG_AC) ? TLB_KERNEL_SMAP : TLB_KERNEL;
    c->tlb = c->tlbs[m];
}

#endif
