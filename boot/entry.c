#include "boot/loader.h"

#define ATTR_CODE   (SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED)
#define ATTR_DATA   (SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED)
#define ATTR_TSS    (SEG_P | 0xb) /* 32- or 64-bit, busy */
#define ATTR_LDT    (SEG_P | 0x2)
#define GDT_ENTRIES 4

/* The state that all modes start from: nothing but what is said here. */
static void reset(struct boot_state *st, enum boot_mode mode, u64 rip)
{
    *st = (struct boot_state){
        .mode = mode,
        .rip = rip,
        .rflags = FLAG_ONE,
        .cr0 = CR0_ET,
        .tr = {.attr = ATTR_TSS, .limit = 0x67},
        .ldtr = {.attr = ATTR_LDT, .limit = 0xffff},
        .idt = {.limit = mode == BOOT_REAL16 ? 0x3ff : 0},
    };
}

static struct boot_seg flat(u16 sel, u32 attr)
{
    return (struct boot_seg){.sel = sel, .attr = attr, .limit = 0xffffffff};
}

static void set_data(struct boot_state *st, struct boot_seg seg)
{
    st->ds = st->es = st->fs = st->gs = st->ss = seg;
}

void entry_real16(struct loader *ld, u16 seg, u16 ip, u16 data_seg, u16 sp)
{
    struct boot_state *st = ld->st;
    reset(st, BOOT_REAL16, ip);
    st->cs = (struct boot_seg){seg, ATTR_CODE, (u64)seg << 4, 0xffff};
    set_data(st, (struct boot_seg){data_seg, ATTR_DATA, (u64)data_seg << 4, 0xffff});
    st->rsp = sp;
}

/* A descriptor of a flat segment: base 0, limit 4 GiB. */
static u64 descriptor(u32 attr)
{
    return 0x000f00000000ffffull | (u64)(attr & 0xf0ff) << 40;
}

/* Puts a GDT with the two segments into memory, and sets aside a page of stack. */
static int make_tables(struct loader *ld, struct boot_seg code, struct boot_seg data, struct err *e)
{
    u64 gdt[GDT_ENTRIES] = {0};
    gpa_t stack;
    assert(code.sel / 8 < GDT_ENTRIES && data.sel / 8 < GDT_ENTRIES);
    gdt[code.sel / 8] = descriptor(code.attr);
    gdt[data.sel / 8] = descriptor(data.attr);
    if (loader_put(ld, gdt, sizeof(gdt), 16, "the GDT", &ld->st->gdt.base, e) ||
        layout_place(&ld->lay, PAGE_SIZE, PAGE_SIZE, "the first stack", &stack, e))
        return -1;
    ld->st->gdt.limit = sizeof(gdt) - 1;
    ld->st->rsp = stack + PAGE_SIZE;
    ld->st->cs = code;
    set_data(ld->st, data);
    return 0;
}

int entry_prot32(struct loader *ld, u32 eip, u16 code_sel, u16 data_sel, struct err *e)
{
    reset(ld->st, BOOT_PROT32, eip);
    ld->st->cr0 |= CR0_PE;
    return make_tables(ld, flat(code_sel, ATTR_CODE | SEG_DB | SEG_G),
                       flat(data_sel, ATTR_DATA | SEG_DB | SEG_G), e);
}

/* PML4, one page-directory-pointer table, four page directories: 4 GiB in 2 MiB pages. */
static int make_pages(struct loader *ld, struct err *e)
{
    enum { DIRS = 4, PAGES = 2 + DIRS };
    gpa_t root;
    if (layout_place(&ld->lay, PAGES * PAGE_SIZE, PAGE_SIZE, "page tables", &root, e))
        return -1;
    u64 table[512] = {root + PAGE_SIZE + (PTE_P | PTE_W)};
    if (loader_write(&ld->lay, root, table, sizeof(table), e))
        return -1;
    for (u64 i = 0; i < 512; i++)
        table[i] = i < DIRS ? (root + (2 + i) * PAGE_SIZE) | PTE_P | PTE_W : 0;
    if (loader_write(&ld->lay, root + PAGE_SIZE, table, sizeof(table), e))
        return -1;
    for (u64 d = 0; d < DIRS; d++) {
        for (u64 i = 0; i < 512; i++)
            table[i] = d * GiB + i * 2 * MiB + (PTE_P | PTE_W | PTE_PS);
        if (loader_write(&ld->lay, root + (2 + d) * PAGE_SIZE, table, sizeof(table), e))
            return -1;
    }
    ld->st->cr3 = root;
    return 0;
}

int entry_long64(struct loader *ld, u64 rip, u16 code_sel, u16 data_sel, struct err *e)
{
    reset(ld->st, BOOT_LONG64, rip);
    ld->st->cr0 |= CR0_PE | CR0_PG;
    ld->st->cr4 = CR4_PAE;
    ld->st->efer = EFER_LME | EFER_LMA;
    if (make_pages(ld, e))
        return -1;
    return make_tables(ld, flat(code_sel, ATTR_CODE | SEG_L | SEG_G),
                       flat(data_sel, ATTR_DATA | SEG_DB | SEG_G), e);
}
