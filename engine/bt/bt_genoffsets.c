/*
 * bt_genoffsets.c - compiled to assembly by the build; the lines marked @ become bt_offsets.h.
 */
#include "cpu/cpu_far.h"
#include "engine/bt/bt_emit.h"

#define OFFSET(name, value) __asm__ volatile("@" #name " %c0" : : "i"((s32)(u32)(value)))

void bt_genoffsets(void);
void bt_genoffsets(void)
{
    OFFSET(CPU_REG, GS_CPU(reg));
    OFFSET(CPU_AFLAGS, GS_CPU(aflags));
    OFFSET(CPU_HOST_RSP, GS_WORD(BT_HOST_RSP));
    OFFSET(CPU_ESP, GS_WORD(BT_ESP));
    OFFSET(CPU_RFOURTEEN, GS_WORD(BT_R14));
    OFFSET(CPU_RESUME, GS_WORD(BT_RESUME));
    OFFSET(CPU_LEFT, GS_WORD(BT_LEFT));
    OFFSET(CPU_LINK, GS_WORD(BT_LINK));
    OFFSET(CPU_IN_CODE, GS_WORD(BT_IN_CODE));
    OFFSET(CPU_SELF, GS_WORD(BT_SELF));
    OFFSET(CPU_SALT, GS_WORD(BT_SALT));
    OFFSET(CPU_VIEW, GS_WORD(BT_VIEW));
    OFFSET(CPU_SCRATCH, GS_WORD(BT_SCRATCH));
    OFFSET(CPU_VIEW_ESP, GS_WORD(BT_VIEW_ESP));
    OFFSET(CPU_CPL, GS_CPU(cpl));
    OFFSET(CPU_EFLAGS, GS_CPU(eflags));
    OFFSET(CPU_EVENTS, GS_CPU(events));
    OFFSET(CPU_EVENT_MASK, GS_CPU(event_mask));
    OFFSET(CPU_CR_FOUR, GS_CPU(cr4));
    OFFSET(CPU_EFER, GS_CPU(efer));
    OFFSET(CPU_STAR, GS_CPU(star));
    OFFSET(CPU_LSTAR, GS_CPU(lstar));
    OFFSET(CPU_SFMASK, GS_CPU(sfmask));
    OFFSET(CPU_SYSENTER_CS, GS_CPU(sysenter_cs));
    OFFSET(CPU_SYSENTER_ESP, GS_CPU(sysenter_esp));
    OFFSET(CPU_SYSENTER_EIP, GS_CPU(sysenter_eip));
    OFFSET(CPU_CR_ZERO, GS_CPU(cr0));
    OFFSET(CPU_GDTR_BASE, GS_CPU(gdtr.base));
    OFFSET(CPU_GDTR_LIMIT, GS_CPU(gdtr.limit));
    OFFSET(CPU_TLB, GS_CPU(tlb));
    OFFSET(CPU_CS, GS_CPU(seg[CS]));
    OFFSET(CPU_SS, GS_CPU(seg[SS]));
    OFFSET(CPU_ES, GS_CPU(seg[ES]));
    OFFSET(CPU_DS, GS_CPU(seg[DS]));
    OFFSET(CPU_FS, GS_CPU(seg[FS]));
    OFFSET(CPU_GS, GS_CPU(seg[GS]));
    OFFSET(KNOWN, GS_CPU(seg_known));
    OFFSET(KNOWN_FLAT, GS_CPU(seg_known[0].flat));
    OFFSET(KNOWN_RAW, GS_CPU(seg_known[0].raw));
    OFFSET(KNOWN_SEG, GS_CPU(seg_known[0].seg));
    OFFSET(KNOWN_SHIFT, __builtin_ctz(sizeof(struct seg_known)));
    OFFSET(KNOWN_MASK, SEG_KNOWN_SLOTS - 1);
    OFFSET(BIT_KNOWN, SEG_KNOWN);
    OFFSET(SEG_BASE, offsetof(struct seg, base));
    OFFSET(SEG_RD_END, offsetof(struct seg, rd_end));
    OFFSET(SEG_WR_END, offsetof(struct seg, wr_end));
    OFFSET(SEG_LIMIT, offsetof(struct seg, limit));
    OFFSET(SEG_ATTR, offsetof(struct seg, attr));
    OFFSET(SEG_SEL, offsetof(struct seg, sel));
    /* From struct cpu, not GS. */
    OFFSET(TLBS_KERNEL, offsetof(struct cpu, tlbs[TLB_KERNEL]));
    OFFSET(TLBS_SMAP, offsetof(struct cpu, tlbs[TLB_KERNEL_SMAP]));
    OFFSET(TLBS_USER, offsetof(struct cpu, tlbs[TLB_USER]));
    OFFSET(VIEW_KERNEL, BT_VIEW64(TLB_KERNEL));
    OFFSET(VIEW_SMAP, BT_VIEW64(TLB_KERNEL_SMAP));
    OFFSET(VIEW_USER, BT_VIEW64(TLB_USER));
    OFFSET(VIEW_KERNEL_SHORT, bt_view(TLB_KERNEL, false));
    OFFSET(VIEW_SMAP_SHORT, bt_view(TLB_KERNEL_SMAP, false));
    OFFSET(TAGS_KERNEL_SHORT, BT_TAGS(bt_view(TLB_KERNEL, false)));
    OFFSET(TAGS_SMAP_SHORT, BT_TAGS(bt_view(TLB_KERNEL_SMAP, false)));
    OFFSET(TAGS_USER_SHORT, BT_TAGS(bt_view(TLB_USER, false)));
    OFFSET(CODES_KERNEL_SHORT, BT_CODES(bt_view(TLB_KERNEL, false)));
    OFFSET(CODES_SMAP_SHORT, BT_CODES(bt_view(TLB_KERNEL_SMAP, false)));
    OFFSET(CODES_USER_SHORT, BT_CODES(bt_view(TLB_USER, false)));
    OFFSET(VIEW_USER_SHORT, bt_view(TLB_USER, false));
    OFFSET(VIEW_BYTES, BT_VIEW_SIZE);
    OFFSET(TAGS_FIRST, BT_TAGS(0));
    OFFSET(CODES_FIRST, BT_CODES(0));
    OFFSET(TAGS_KERNEL, BT_TAGS(BT_VIEW64(TLB_KERNEL)));
    OFFSET(TAGS_SMAP, BT_TAGS(BT_VIEW64(TLB_KERNEL_SMAP)));
    OFFSET(TAGS_USER, BT_TAGS(BT_VIEW64(TLB_USER)));
    OFFSET(CODES_KERNEL, BT_CODES(BT_VIEW64(TLB_KERNEL)));
    OFFSET(CODES_SMAP, BT_CODES(BT_VIEW64(TLB_KERNEL_SMAP)));
    OFFSET(CODES_USER, BT_CODES(BT_VIEW64(TLB_USER)));
    OFFSET(BIT_EFER_SCE, EFER_SCE);
    OFFSET(BIT_EFER_LMA, EFER_LMA);
    OFFSET(BIT_CR_PE, CR0_PE);
    OFFSET(BIT_CR_SMAP, CR4_SMAP);
    OFFSET(BIT_EV_INTR, EV_INTR);
    OFFSET(BIT_TF, FLAG_TF);
    OFFSET(BIT_IF, FLAG_IF);
    OFFSET(BIT_AC, FLAG_AC);
    OFFSET(BITS_FLAGS, FLAGS_ALL & ~(FLAGS_ARITH | FLAG_RF | FLAG_VM));
    OFFSET(BITS_POPF, FLAG_DF | FLAG_NT | FLAG_ID | FLAG_IF | FLAG_IOPL);
    OFFSET(SEG_FLAT_CODE, SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_G | SEG_L);
    OFFSET(SEG_FLAT_SHORT_CODE,
           SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_G | SEG_DB);
    OFFSET(SEG_FLAT_DATA, SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_G | SEG_DB);
    OFFSET(SEG_RING_THREE, 3 << SEG_DPL_SHIFT);
}
