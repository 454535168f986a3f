/*
 * elf.h - ELF files, 32- and 64-bit, as kernels use them.
 */
#ifndef POPF_BOOT_ELF_H
#define POPF_BOOT_ELF_H

#include "boot/layout.h"

#define ELF_PT_LOAD   1
#define ELF_PT_INTERP 3
#define ELF_PT_NOTE   4

struct elf {
    const u8 *data; /* borrowed */
    u64 size;
    bool is64; /* ELFCLASS64 */
    bool x86_64;
    u64 entry; /* e_entry as it stands */
    u64 phoff;
    unsigned phnum, phentsize;
};

/* A program header, whatever the class. */
struct elf_segment {
    u32 type;
    u64 offset, filesz; /* within the file: checked */
    u64 vaddr, paddr, memsz;
    u64 align;
};

static inline bool elf_is(const u8 *data, u64 size)
{
    return size >= 4 && data[0] == 0x7f && data[1] == 'E' && data[2] == 'L' && data[3] == 'F';
}

/*
 * Checks that the file is an x86 ELF executable all of whose segments are in the file. Messages
 * go on from "kernel 'x': ".
 */
int elf_parse(struct elf *elf, const u8 *data, u64 size, struct err *e);

/* Program header i < phnum, of a parsed file. */
void elf_segment(const struct elf *elf, unsigned i, struct elf_segment *s);

/* e_entry as a physical address: translated if it is a virtual one of some segment. */
u64 elf_entry_phys(const struct elf *elf);

/* Where PT_LOAD segments begin and end in physical memory. */
void elf_span(const struct elf *elf, gpa_t *start, gpa_t *end);

/* The descriptor of a note, or NULL. */
const u8 *elf_note(const struct elf *elf, const char *owner, u32 type, u32 *size);

/* Copies the PT_LOAD segments to their physical addresses and claims these for "the kernel". */
int elf_load(const struct elf *elf, struct layout *l, struct err *e);

#endif
