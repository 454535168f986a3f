#include "boot/elf.h"
#include "boot/loader.h"

#include <elf.h>
#include <string.h>

static int check_ident(const u8 *data, u64 size, struct err *e)
{
    if (size < sizeof(Elf32_Ehdr))
        return err_set(e, "a truncated ELF file: its %llu bytes do not hold an ELF header",
                       (unsigned long long)size);
    if (!elf_is(data, size))
        return err_set(e, "not an ELF file");
    if (data[EI_DATA] != ELFDATA2LSB || data[EI_VERSION] != EV_CURRENT)
        return err_set(e, "an ELF file for a big-endian machine; popf runs x86 kernels");
    if (data[EI_CLASS] != ELFCLASS32 && data[EI_CLASS] != ELFCLASS64)
        return err_set(e, "a damaged ELF file: class %u", data[EI_CLASS]);
    if (data[EI_CLASS] == ELFCLASS64 && size < sizeof(Elf64_Ehdr))
        return err_set(e, "a truncated ELF file: its %llu bytes do not hold an ELF header",
                       (unsigned long long)size);
    return 0;
}

static const char *machine_name(unsigned machine)
{
    switch (machine) {
    case EM_AARCH64:
        return "arm64";
    case EM_ARM:
        return "Arm";
    case EM_RISCV:
        return "RISC-V";
    case EM_PPC64:
        return "PowerPC";
    case EM_S390:
        return "s390";
    case EM_MIPS:
        return "MIPS";
    case EM_X86_64:
    case EM_386:
        return "x86";
    default:
        return "another machine";
    }
}

static int check_kind(unsigned machine, unsigned type, struct err *e)
{
    if (machine != EM_X86_64 && machine != EM_386)
        return err_set(e, "an ELF file for %s (e_machine %u); popf runs x86 kernels",
                       machine_name(machine), machine);
    if (type == ET_REL)
        return err_set(e, "an ELF object or module (ET_REL); give the linked kernel");
    if (type == ET_CORE)
        return err_set(e, "an ELF core dump, not a kernel");
    if (type != ET_EXEC && type != ET_DYN)
        return err_set(e, "a damaged ELF file: type %u", type);
    return 0;
}

static void read_header(struct elf *elf)
{
    if (elf->is64) {
        Elf64_Ehdr h;
        memcpy(&h, elf->data, sizeof(h));
        elf->entry = h.e_entry;
        elf->phoff = h.e_phoff;
        elf->phnum = h.e_phnum;
        elf->phentsize = h.e_phentsize;
    } else {
        Elf32_Ehdr h;
        memcpy(&h, elf->data, sizeof(h));
        elf->entry = h.e_entry;
        elf->phoff = h.e_phoff;
        elf->phnum = h.e_phnum;
        elf->phentsize = h.e_phentsize;
    }
}

void elf_segment(const struct elf *elf, unsigned i, struct elf_segment *s)
{
    const u8 *p = elf->data + elf->phoff + (u64)i * elf->phentsize;
    if (elf->is64) {
        Elf64_Phdr h;
        memcpy(&h, p, sizeof(h));
        *s = (struct elf_segment){h.p_type,  h.p_offset, h.p_filesz, h.p_vaddr,
                                  h.p_paddr, h.p_memsz,  h.p_align};
    } else {
        Elf32_Phdr h;
        memcpy(&h, p, sizeof(h));
        *s = (struct elf_segment){h.p_type,  h.p_offset, h.p_filesz, h.p_vaddr,
                                  h.p_paddr, h.p_memsz,  h.p_align};
    }
}

static int check_segment(const struct elf *elf, unsigned i, const struct elf_segment *s,
                         struct err *e)
{
    if (s->type == ELF_PT_INTERP)
        return err_set(e, "a program for Linux, not a kernel");
    if (s->type != ELF_PT_LOAD && s->type != ELF_PT_NOTE)
        return 0;
    if (s->offset > elf->size || s->filesz > elf->size - s->offset)
        return err_set(e,
                       "a truncated ELF file: segment %u needs %#llx bytes at %#llx, the file "
                       "has %#llx",
                       i, (unsigned long long)s->filesz, (unsigned long long)s->offset,
                       (unsigned long long)elf->size);
    if (s->type != ELF_PT_LOAD)
        return 0;
    if (s->filesz > s->memsz || s->paddr + s->memsz < s->paddr)
        return err_set(e, "a damaged ELF file: segment %u has sizes that cannot be", i);
    return 0;
}

static int check_segments(const struct elf *elf, struct err *e)
{
    unsigned loads = 0;
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s;
        elf_segment(elf, i, &s);
        if (check_segment(elf, i, &s, e))
            return -1;
        loads += s.type == ELF_PT_LOAD && s.memsz;
    }
    return loads ? 0 : err_set(e, "an ELF file with nothing to load; is it a stripped debug file?");
}

int elf_parse(struct elf *elf, const u8 *data, u64 size, struct err *e)
{
    if (check_ident(data, size, e))
        return -1;
    /* e_type and e_machine are at the same place in both classes. */
    unsigned type = get16(data + offsetof(Elf32_Ehdr, e_type));
    unsigned machine = get16(data + offsetof(Elf32_Ehdr, e_machine));
    if (check_kind(machine, type, e))
        return -1;
    *elf = (struct elf){.data = data, .size = size};
    elf->is64 = data[EI_CLASS] == ELFCLASS64;
    elf->x86_64 = machine == EM_X86_64;
    read_header(elf);
    u64 need = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (elf->phnum && elf->phentsize < need)
        return err_set(e, "a damaged ELF file: program headers of %u bytes", elf->phentsize);
    if (elf->phoff > size || (u64)elf->phnum * elf->phentsize > size - elf->phoff)
        return err_set(e, "a truncated ELF file: its program headers at %#llx are not in it",
                       (unsigned long long)elf->phoff);
    return check_segments(elf, e);
}

/* Whether addr is within the segment that starts at base. */
static bool within(u64 addr, u64 base, const struct elf_segment *s)
{
    return s->type == ELF_PT_LOAD && addr - base < s->memsz;
}

u64 elf_entry_phys(const struct elf *elf)
{
    struct elf_segment s;
    for (unsigned i = 0; i < elf->phnum; i++) {
        elf_segment(elf, i, &s);
        if (within(elf->entry, s.paddr, &s))
            return elf->entry;
    }
    for (unsigned i = 0; i < elf->phnum; i++) {
        elf_segment(elf, i, &s);
        if (within(elf->entry, s.vaddr, &s))
            return elf->entry - s.vaddr + s.paddr;
    }
    return elf->entry;
}

void elf_span(const struct elf *elf, gpa_t *start, gpa_t *end)
{
    *start = ~0ull;
    *end = 0;
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s;
        elf_segment(elf, i, &s);
        if (s.type != ELF_PT_LOAD || !s.memsz)
            continue;
        *start = min_u64(*start, s.paddr);
        *end = max_u64(*end, s.paddr + s.memsz);
    }
}

/* One PT_NOTE segment: notes of (namesz, descsz, type), each part padded to the alignment. */
static const u8 *find_note(const u8 *p, u64 left, u64 align, const char *owner, u32 type, u32 *size)
{
    u64 owner_size = strlen(owner) + 1;
    while (left >= 12) {
        u32 namesz = get32(p), descsz = get32(p + 4);
        u64 desc = align_up(12 + (u64)namesz, align);
        u64 next = align_up(desc + descsz, align);
        if (desc + descsz > left)
            return NULL;
        if (get32(p + 8) == type && namesz == owner_size && !memcmp(p + 12, owner, owner_size)) {
            *size = descsz;
            return p + desc;
        }
        if (next > left)
            return NULL;
        p += next;
        left -= next;
    }
    return NULL;
}

const u8 *elf_note(const struct elf *elf, const char *owner, u32 type, u32 *size)
{
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s;
        elf_segment(elf, i, &s);
        if (s.type != ELF_PT_NOTE)
            continue;
        const u8 *d =
            find_note(elf->data + s.offset, s.filesz, s.align == 8 ? 8 : 4, owner, type, size);
        if (d)
            return d;
    }
    return NULL;
}

int elf_load(const struct elf *elf, struct layout *l, struct err *e)
{
    gpa_t start, end;
    elf_span(elf, &start, &end);
    /* Asked for as a whole first, so that the message names all the memory that it takes. */
    if (start >= LAYOUT_HIGH_MEM && layout_claim(l, start, end - start, loader_kernel, e))
        return -1;
    for (unsigned i = 0; i < elf->phnum; i++) {
        struct elf_segment s;
        elf_segment(elf, i, &s);
        if (s.type != ELF_PT_LOAD)
            continue;
        if (layout_claim(l, s.paddr, s.memsz, loader_kernel, e) ||
            loader_write(l, s.paddr, elf->data + s.offset, s.filesz, e) ||
            loader_zero(l, s.paddr + s.filesz, s.memsz - s.filesz, e))
            return -1;
    }
    return 0;
}
