/*
 * bt_gdbjit.c - names of translations for a gdb that debugs popf itself, by the interface that gdb
 * has for compilers at run time (its manual, "JIT Compilation Interface"): a list of ELF objects in
 * memory, and a function at which gdb has a breakpoint.
 *
 * Runs while the guest's vector state is loaded: no libc but system calls.
 */
#include <elf.h>
#undef PF_W /* x86.h means another */
#include <sys/mman.h>

#include "engine/bt/bt.h"

#define OBJECTS_MAX (1u << 16) /* for each CPU; what comes later has no name */

/* --- gdb's side: names and layout are its --- */

enum { JIT_NOACTION, JIT_REGISTER, JIT_UNREGISTER };

struct jit_code_entry {
    struct jit_code_entry *next, *prev;
    const void *symfile_addr;
    u64 symfile_size;
};

struct jit_descriptor {
    u32 version;
    u32 action_flag;
    struct jit_code_entry *relevant_entry;
    struct jit_code_entry *first_entry;
};

void __jit_debug_register_code(void);
extern struct jit_descriptor __jit_debug_descriptor;

struct jit_descriptor __jit_debug_descriptor = {.version = 1};

__attribute__((noinline)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" : : : "memory");
}

/* --- objects --- */

enum { SEC_NONE, SEC_TEXT, SEC_SYMBOLS, SEC_STRINGS, SECTIONS };

static const char section_names[] = "\0.text\0.symtab\0.strtab";
#define NAME_TEXT    1
#define NAME_SYMBOLS 7
#define NAME_STRINGS 15

struct object {
    struct jit_code_entry entry;
    struct elf {
        Elf64_Ehdr header;
        Elf64_Shdr section[SECTIONS];
        Elf64_Sym symbol[2];
        char strings[sizeof(section_names) + 32]; /* the sections' names, then the symbol's */
    } elf;
};

struct gdbjit {
    unsigned n;
    struct object object[OBJECTS_MAX];
};

static _Atomic bool listing; /* the list is the process's */

static void tell(u32 action, struct jit_code_entry *e)
{
    struct jit_descriptor *d = &__jit_debug_descriptor;
    while (atomic_exchange(&listing, true))
        __builtin_ia32_pause();
    if (action == JIT_REGISTER) {
        e->next = d->first_entry;
        e->prev = NULL;
        if (e->next)
            e->next->prev = e;
        d->first_entry = e;
    } else {
        if (e->next)
            e->next->prev = e->prev;
        *(e->prev ? &e->prev->next : &d->first_entry) = e->next;
    }
    d->action_flag = action;
    d->relevant_entry = e;
    __jit_debug_register_code();
    d->action_flag = JIT_NOACTION;
    atomic_store(&listing, false);
}

static void put_name(char *at, u64 rip, bool user)
{
    const char *s = user ? "guest_user_" : "guest_";
    while (*s)
        *at++ = *s++;
    unsigned digits = 1;
    while (digits < 16 && rip >> 4 * digits)
        digits++;
    while (digits--)
        *at++ = "0123456789abcdef"[rip >> 4 * digits & 15];
    *at = 0;
}

static void make_elf(struct elf *f, const u8 *code, u64 size)
{
    f->header = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_shoff = offsetof(struct elf, section),
        .e_ehsize = sizeof(f->header),
        .e_shentsize = sizeof(f->section[0]),
        .e_shnum = SECTIONS,
        .e_shstrndx = SEC_STRINGS,
    };
    f->section[SEC_TEXT] = (Elf64_Shdr){
        .sh_name = NAME_TEXT,
        .sh_type = SHT_NOBITS,
        .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
        .sh_addr = (u64)code,
        .sh_size = size,
        .sh_addralign = 1,
    };
    f->section[SEC_SYMBOLS] = (Elf64_Shdr){
        .sh_name = NAME_SYMBOLS,
        .sh_type = SHT_SYMTAB,
        .sh_offset = offsetof(struct elf, symbol),
        .sh_size = sizeof(f->symbol),
        .sh_link = SEC_STRINGS,
        .sh_info = 1, /* first that is not local */
        .sh_addralign = 8,
        .sh_entsize = sizeof(f->symbol[0]),
    };
    f->section[SEC_STRINGS] = (Elf64_Shdr){
        .sh_name = NAME_STRINGS,
        .sh_type = SHT_STRTAB,
        .sh_offset = offsetof(struct elf, strings),
        .sh_size = sizeof(f->strings),
        .sh_addralign = 1,
    };
    f->symbol[1] = (Elf64_Sym){
        .st_name = sizeof(section_names),
        .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
        .st_shndx = SEC_TEXT,
        .st_value = (u64)code,
        .st_size = size,
    };
}

/* --- regions --- */

struct gdbjit *bt_gdbjit_new(void)
{
    return reserve_memory(sizeof(struct gdbjit));
}

void bt_gdbjit_add(struct gdbjit *g, const u8 *code, u64 size, u64 rip, unsigned view)
{
    if (g->n == OBJECTS_MAX)
        return;
    struct object *o = &g->object[g->n++];
    make_elf(&o->elf, code, size);
    for (unsigned n = 0; n < sizeof(section_names); n++)
        o->elf.strings[n] = section_names[n];
    put_name(o->elf.strings + sizeof(section_names), rip, BT_USER(view));
    o->entry.symfile_addr = &o->elf;
    o->entry.symfile_size = sizeof(o->elf);
    tell(JIT_REGISTER, &o->entry);
}

void bt_gdbjit_drop(struct gdbjit *g)
{
    while (g->n)
        tell(JIT_UNREGISTER, &g->object[--g->n].entry);
}

void bt_gdbjit_free(struct gdbjit *g)
{
    bt_gdbjit_drop(g);
    munmap(g, sizeof(*g));
}
