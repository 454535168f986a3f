/*
 * gdb_regs.c - makes the target description and the register map that goes with it.
 */
#include "gdb/gdb_regs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum group { CORE, SSE, AVX, AVX512, SEGMENTS, SYSTEM, GROUPS };

#define AT(field) ((u16)offsetof(struct gdb_regs, field))

static const char *const arch_name[GDB_ARCHS] = {
    [GDB_X86_64] = "i386:x86-64", [GDB_I386] = "i386", [GDB_I8086] = "i8086"};

static const char *const feature_name[GROUPS] = {
    [CORE] = "org.gnu.gdb.i386.core",         [SSE] = "org.gnu.gdb.i386.sse",
    [AVX] = "org.gnu.gdb.i386.avx",           [AVX512] = "org.gnu.gdb.i386.avx512",
    [SEGMENTS] = "org.gnu.gdb.i386.segments", [SYSTEM] = "org.popf.system"};

const char *gdb_arch_name(enum gdb_arch arch)
{
    return arch_name[arch];
}

/* --- the map --- */

static void add(struct gdb_regmap *m, enum group group, const char *type, unsigned at,
                unsigned size, const char *fmt, ...) PRINTF(6, 7);

static void add(struct gdb_regmap *m, enum group group, const char *type, unsigned at,
                unsigned size, const char *fmt, ...)
{
    assert(m->n < GDB_REGS_MAX && at + size <= sizeof(struct gdb_regs));
    struct gdb_reg *r = &m->reg[m->n++];
    *r = (struct gdb_reg){.at = (u16)at, .size = (u8)size, .group = (u8)group, .type = type};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->name, sizeof(r->name), fmt, ap);
    va_end(ap);
    m->bytes += size;
}

static const char *gpr_type(unsigned n, unsigned word)
{
    bool pointer = n == 4 || n == 5; /* the stack's */
    return pointer ? "data_ptr" : word == 8 ? "int64" : "int32";
}

static void add_gprs(struct gdb_regmap *m, bool wide)
{
    static const char name[8][3] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    /* gdb's orders, by number. */
    static const u8 order64[8] = {0, 3, 1, 2, 6, 7, 5, 4}, order32[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const u8 *order = wide ? order64 : order32;
    unsigned word = wide ? 8 : 4;
    for (unsigned i = 0; i < 8; i++) {
        unsigned n = order[i];
        if (n == 4)
            m->sp = m->n;
        add(m, CORE, gpr_type(n, word), AT(gpr) + 8 * n, word, "%c%s", wide ? 'r' : 'e', name[n]);
    }
    for (unsigned n = 8; wide && n < 16; n++)
        add(m, CORE, "int64", AT(gpr) + 8 * n, word, "r%u", n);
    m->pc = m->n;
    add(m, CORE, "code_ptr", AT(pc), word, "%cip", wide ? 'r' : 'e');
}

static void add_core(struct gdb_regmap *m, bool wide)
{
    static const struct {
        const char *name;
        u16 at;
    } seg[] = {{"cs", AT(seg[1])}, {"ss", AT(seg[2])}, {"ds", AT(seg[3])},
               {"es", AT(seg[0])}, {"fs", AT(seg[4])}, {"gs", AT(seg[5])}},
      fpu[] = {{"fctrl", AT(fctrl)}, {"fstat", AT(fstat)}, {"ftag", AT(ftag)},
               {"fiseg", AT(fiseg)}, {"fioff", AT(fioff)}, {"foseg", AT(foseg)},
               {"fooff", AT(fooff)}, {"fop", AT(fop)}};
    add_gprs(m, wide);
    add(m, CORE, "i386_eflags", AT(eflags), 4, "eflags");
    for (unsigned i = 0; i < ARRAY_SIZE(seg); i++)
        add(m, CORE, "int32", seg[i].at, 4, "%s", seg[i].name);
    for (unsigned i = 0; i < 8; i++)
        add(m, CORE, "i387_ext", AT(st) + 10 * i, 10, "st%u", i);
    for (unsigned i = 0; i < ARRAY_SIZE(fpu); i++)
        add(m, CORE, "int", fpu[i].at, 4, "%s", fpu[i].name);
}

static void add_vector(struct gdb_regmap *m, bool wide, enum gdb_vector vector)
{
    unsigned n = wide ? 16 : 8, zmm = AT(zmm);
    for (unsigned i = 0; i < n; i++)
        add(m, SSE, "vec128", zmm + 64 * i, 16, "xmm%u", i);
    add(m, SSE, "i386_mxcsr", AT(mxcsr), 4, "mxcsr");
    for (unsigned i = 0; vector >= GDB_AVX && i < n; i++)
        add(m, AVX, "uint128", zmm + 64 * i + 16, 16, "ymm%uh", i);
    if (vector < GDB_AVX512)
        return;
    for (unsigned i = 0; i < 8; i++)
        add(m, AVX512, "uint64", AT(k) + 8 * i, 8, "k%u", i);
    for (unsigned i = 0; i < n; i++)
        add(m, AVX512, "v2ui128", zmm + 64 * i + 32, 32, "zmm%uh", i);
    for (unsigned i = 16; wide && i < 32; i++)
        add(m, AVX512, "vec128", zmm + 64 * i, 16, "xmm%u", i);
    for (unsigned i = 16; wide && i < 32; i++)
        add(m, AVX512, "uint128", zmm + 64 * i + 16, 16, "ymm%uh", i);
    for (unsigned i = 16; wide && i < 32; i++)
        add(m, AVX512, "v2ui128", zmm + 64 * i + 32, 32, "zmm%uh", i);
}

static void add_system(struct gdb_regmap *m, bool wide)
{
    static const struct {
        const char *name, *type;
        u16 at;
        u8 size; /* 0: a word */
    } reg[] = {
        {"cr0", "cr0_flags", AT(cr0), 0},
        {"cr2", "data_ptr", AT(cr2), 0},
        {"cr3", "word", AT(cr3), 0},
        {"cr4", "cr4_flags", AT(cr4), 0},
        {"cr8", "word", AT(cr8), 0},
        {"efer", "efer_flags", AT(efer), 8},
        {"xcr0", "uint64", AT(xcr0), 8},
        {"k_gs_base", "uint64", AT(k_gs_base), 8},
        {"es_base", "word", AT(seg_base[0]), 0},
        {"cs_base", "word", AT(seg_base[1]), 0},
        {"ss_base", "word", AT(seg_base[2]), 0},
        {"ds_base", "word", AT(seg_base[3]), 0},
        {"gdtr_base", "word", AT(gdtr_base), 0},
        {"gdtr_limit", "uint32", AT(gdtr_limit), 4},
        {"idtr_base", "word", AT(idtr_base), 0},
        {"idtr_limit", "uint32", AT(idtr_limit), 4},
        {"ldtr", "uint32", AT(ldtr), 4},
        {"ldtr_base", "word", AT(ldtr_base), 0},
        {"tr", "uint32", AT(tr), 4},
        {"tr_base", "word", AT(tr_base), 0},
        {"dr0", "word", AT(dr[0]), 0},
        {"dr1", "word", AT(dr[1]), 0},
        {"dr2", "word", AT(dr[2]), 0},
        {"dr3", "word", AT(dr[3]), 0},
        {"dr6", "word", AT(dr[6]), 0},
        {"dr7", "word", AT(dr[7]), 0},
    };
    unsigned word = wide ? 8 : 4;
    enum group seg = wide ? SEGMENTS : SYSTEM;
    add(m, seg, wide ? "int" : "uint32", AT(seg_base[4]), word, "fs_base");
    add(m, seg, wide ? "int" : "uint32", AT(seg_base[5]), word, "gs_base");
    for (unsigned i = 0; i < ARRAY_SIZE(reg); i++) {
        const char *type = strcmp(reg[i].type, "word") ? reg[i].type : wide ? "uint64" : "uint32";
        add(m, SYSTEM, type, reg[i].at, reg[i].size ? reg[i].size : word, "%s", reg[i].name);
    }
}

/* --- the description --- */

static void out(struct gdb_regmap *m, const char *fmt, ...) PRINTF(2, 3);

static void out(struct gdb_regmap *m, const char *fmt, ...)
{
    size_t room = sizeof(m->xml) - m->xml_len;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(m->xml + m->xml_len, room, fmt, ap);
    va_end(ap);
    assert(n >= 0 && (size_t)n < room);
    m->xml_len += (size_t)n;
}

struct field {
    const char *name;
    u8 bit;
};

static void out_flags(struct gdb_regmap *m, const char *id, unsigned size, const struct field *f,
                      unsigned n)
{
    out(m, "<flags id=\"%s\" size=\"%u\">", id, size);
    for (unsigned i = 0; i < n; i++)
        if (f[i].bit < 8 * size)
            out(m, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", f[i].name, f[i].bit, f[i].bit);
    out(m, "</flags>");
}

static void out_core_types(struct gdb_regmap *m)
{
    static const struct field eflags[] = {
        {"", 1},    {"CF", 0},  {"PF", 2},   {"AF", 4},   {"ZF", 6},  {"SF", 7},
        {"TF", 8},  {"IF", 9},  {"DF", 10},  {"OF", 11},  {"NT", 14}, {"RF", 16},
        {"VM", 17}, {"AC", 18}, {"VIF", 19}, {"VIP", 20}, {"ID", 21}};
    out_flags(m, "i386_eflags", 4, eflags, ARRAY_SIZE(eflags));
}

static void out_sse_types(struct gdb_regmap *m)
{
    static const struct field mxcsr[] = {{"IE", 0},  {"DE", 1},  {"ZE", 2},  {"OE", 3}, {"UE", 4},
                                         {"PE", 5},  {"DAZ", 6}, {"IM", 7},  {"DM", 8}, {"ZM", 9},
                                         {"OM", 10}, {"UM", 11}, {"PM", 12}, {"FZ", 15}};
    static const struct {
        const char *name, *type;
        unsigned count;
    } view[] = {{"v4f", "ieee_single", 4}, {"v2d", "ieee_double", 2}, {"v16i8", "int8", 16},
                {"v8i16", "int16", 8},     {"v4i32", "int32", 4},     {"v2i64", "int64", 2}};
    static const char *const field[] = {"v4_float", "v2_double", "v16_int8",
                                        "v8_int16", "v4_int32",  "v2_int64"};
    for (unsigned i = 0; i < ARRAY_SIZE(view); i++)
        out(m, "<vector id=\"%s\" type=\"%s\" count=\"%u\"/>", view[i].name, view[i].type,
            view[i].count);
    out(m, "<union id=\"vec128\">");
    for (unsigned i = 0; i < ARRAY_SIZE(view); i++)
        out(m, "<field name=\"%s\" type=\"%s\"/>", field[i], view[i].name);
    out(m, "<field name=\"uint128\" type=\"uint128\"/></union>");
    out_flags(m, "i386_mxcsr", 4, mxcsr, ARRAY_SIZE(mxcsr));
}

static void out_avx512_types(struct gdb_regmap *m)
{
    out(m, "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
           "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
           "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
           "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
           "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
           "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
           "<field name=\"v4_int32\" type=\"v4i32\"/>"
           "<field name=\"uint128\" type=\"uint128\"/></union>"
           "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>");
}

static void out_system_types(struct gdb_regmap *m, bool wide)
{
    static const struct field cr0[] = {{"PE", 0},  {"MP", 1},  {"EM", 2},  {"TS", 3},
                                       {"ET", 4},  {"NE", 5},  {"WP", 16}, {"AM", 18},
                                       {"NW", 29}, {"CD", 30}, {"PG", 31}};
    static const struct field cr4[] = {
        {"VME", 0},         {"PVI", 1},      {"TSD", 2},   {"DE", 3},    {"PSE", 4},
        {"PAE", 5},         {"MCE", 6},      {"PGE", 7},   {"PCE", 8},   {"OSFXSR", 9},
        {"OSXMMEXCPT", 10}, {"UMIP", 11},    {"LA57", 12}, {"VMXE", 13}, {"FSGSBASE", 16},
        {"PCIDE", 17},      {"OSXSAVE", 18}, {"SMEP", 20}, {"SMAP", 21}, {"PKE", 22}};
    static const struct field efer[] = {{"SCE", 0},  {"LME", 8},   {"LMA", 10},
                                        {"NXE", 11}, {"SVME", 12}, {"FFXSR", 14}};
    out_flags(m, "cr0_flags", wide ? 8 : 4, cr0, ARRAY_SIZE(cr0));
    out_flags(m, "cr4_flags", wide ? 8 : 4, cr4, ARRAY_SIZE(cr4));
    out_flags(m, "efer_flags", 8, efer, ARRAY_SIZE(efer));
}

static void out_types(struct gdb_regmap *m, enum group g, bool wide)
{
    switch (g) {
    case CORE:
        out_core_types(m);
        break;
    case SSE:
        out_sse_types(m);
        break;
    case AVX512:
        out_avx512_types(m);
        break;
    case SYSTEM:
        out_system_types(m, wide);
        break;
    default:
        break;
    }
}

/* What `info float` shows, and `info registers` does not. */
static const char *group_attr(const struct gdb_reg *r)
{
    return !strcmp(r->type, "int") && r->group == CORE ? " group=\"float\"" : "";
}

static void out_xml(struct gdb_regmap *m, bool wide)
{
    int open = -1;
    out(m,
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
        "<architecture>%s</architecture>",
        arch_name[m->arch]);
    for (unsigned i = 0; i < m->n; i++) {
        const struct gdb_reg *r = &m->reg[i];
        if (open != r->group) {
            out(m, "%s<feature name=\"%s\">", open < 0 ? "" : "</feature>\n",
                feature_name[r->group]);
            out_types(m, (enum group)r->group, wide);
            open = r->group;
        }
        out(m, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"%s/>", r->name, 8u * r->size, r->type,
            group_attr(r));
    }
    out(m, "</feature></target>\n");
}

void gdb_regmap_init(struct gdb_regmap *m, enum gdb_arch arch, enum gdb_vector vector)
{
    bool wide = arch == GDB_X86_64;
    m->arch = arch;
    m->n = m->bytes = 0;
    m->xml_len = 0;
    add_core(m, wide);
    add_vector(m, wide, vector);
    add_system(m, wide);
    out_xml(m, wide);
}
