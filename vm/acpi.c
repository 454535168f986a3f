#include "vm/acpi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/acpi_aml.h"

#define PACKED __attribute__((packed))

/* --- layouts, as the specification has them --- */

struct PACKED sdt {
    char signature[4];
    u32 length;
    u8 revision;
    u8 checksum;
    char oem_id[6];
    char oem_table_id[8];
    u32 oem_revision;
    char creator_id[4];
    u32 creator_revision;
};

struct PACKED rsdp {
    char signature[8];
    u8 checksum; /* of the first 20 bytes */
    char oem_id[6];
    u8 revision;
    u32 rsdt;
    u32 length;
    u64 xsdt;
    u8 extended_checksum;
    u8 reserved[3];
};

enum { GAS_MEMORY = 0, GAS_IO = 1 };

struct PACKED gas {
    u8 space;
    u8 bit_width;
    u8 bit_offset;
    u8 access_size; /* 1: byte, 2: word, 3: dword */
    u64 address;
};

struct PACKED fadt {
    struct sdt h;
    u32 facs, dsdt;
    u8 reserved0;
    u8 preferred_pm_profile;
    u16 sci_int;
    u32 smi_cmd;
    u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    u32 pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk;
    u32 gpe0_blk, gpe1_blk;
    u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len;
    u8 gpe1_base, cst_cnt;
    u16 p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    u8 duty_offset, duty_width, day_alrm, mon_alrm, century;
    u16 iapc_boot_arch;
    u8 reserved1;
    u32 flags;
    struct gas reset_reg;
    u8 reset_value;
    u16 arm_boot_arch;
    u8 minor_version;
    u64 x_facs, x_dsdt;
    struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr;
    struct gas x_gpe0, x_gpe1;
    struct gas sleep_control, sleep_status;
    u64 hypervisor_vendor;
};

struct PACKED facs {
    char signature[4];
    u32 length;
    u32 hardware_signature, waking_vector, global_lock, flags;
    u64 x_waking_vector;
    u8 version;
    u8 reserved[31];
};

struct PACKED madt {
    struct sdt h;
    u32 lapic;
    u32 flags;
};

struct PACKED madt_lapic {
    u8 type, length;
    u8 uid, apic_id;
    u32 flags;
};

struct PACKED madt_ioapic {
    u8 type, length;
    u8 id, reserved;
    u32 address, gsi_base;
};

struct PACKED madt_override {
    u8 type, length;
    u8 bus, source;
    u32 gsi;
    u16 flags;
};

struct PACKED madt_lapic_nmi {
    u8 type, length;
    u8 uid;
    u16 flags;
    u8 lint;
};

struct PACKED madt_x2apic {
    u8 type, length;
    u16 reserved;
    u32 apic_id, flags, uid;
};

struct PACKED hpet {
    struct sdt h;
    u32 id;
    struct gas base;
    u8 number;
    u16 min_tick;
    u8 page_protection;
};

static_assert(sizeof(struct sdt) == 36, "ACPI 6.4, 5.2.6");
static_assert(sizeof(struct rsdp) == 36, "5.2.5.3");
static_assert(sizeof(struct fadt) == 276, "5.2.9, revision 6");
static_assert(sizeof(struct facs) == 64, "5.2.10");
static_assert(sizeof(struct madt) == 44, "5.2.12");
static_assert(sizeof(struct hpet) == 56, "IA-PC HPET 1.0a, 3.2.4");

/* FADT flags (5.2.9, table 5.10) and IA-PC boot architecture flags (table 5.11) */
#define FADT_WBINVD          (1u << 0)
#define FADT_PROC_C1         (1u << 2)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_NO_RTC_WAKE     (1u << 6)
#define FADT_TMR_VAL_EXT     (1u << 8)
#define FADT_RESET_REG       (1u << 10)

#define BOOT_LEGACY_DEVICES (1u << 0)
#define BOOT_8042           (1u << 1)
#define BOOT_NO_VGA         (1u << 2)
#define BOOT_NO_ASPM        (1u << 4)
#define BOOT_NO_RTC         (1u << 5)

#define MADT_PCAT_COMPAT 1u
#define MADT_ENABLED     1u
#define MADT_LEVEL_HIGH  0x0du /* MPS INTI flags: level-triggered, active high */

/* --- the image under construction --- */

struct image {
    u8 *bytes; /* [room] */
    gpa_t where;
    u64 used, room;
    bool full;
};

/* Room for a table; what it is asked for beyond the end goes nowhere, and is reported at the end.
 */
static u64 place(struct image *im, u64 len, u64 align)
{
    u64 at = align_up(im->used, align);

    if (at > im->room || len > im->room - at) {
        im->full = true;
        return 0;
    }
    im->used = at + len;
    return at;
}

static u8 checksum(const void *p, size_t n)
{
    const u8 *b = p;
    u8 sum = 0;

    while (n--)
        sum += *b++;
    return (u8)-sum;
}

static struct sdt header(const char signature[5], u8 revision, u32 length)
{
    struct sdt h = {
        .length = length,
        .revision = revision,
        .oem_id = {'P', 'O', 'P', 'F', ' ', ' '},
        .oem_table_id = {'P', 'O', 'P', 'F', 'M', 'A', 'C', 'H'},
        .oem_revision = 1,
        .creator_id = {'P', 'O', 'P', 'F'},
        .creator_revision = 1,
    };

    memcpy(h.signature, signature, 4);
    return h;
}

/* Puts in a table that begins with a struct sdt, checksummed. Returns its guest address. */
static gpa_t add_table(struct image *im, const void *table, u64 len)
{
    u64 at = place(im, len, 16);

    if (im->full)
        return 0;
    memcpy(im->bytes + at, table, len);
    im->bytes[at + offsetof(struct sdt, checksum)] = checksum(table, len);
    return im->where + at;
}

/* --- DSDT --- */

static const struct com {
    u16 port;
    u8 irq;
} coms[] = {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}};

static void dsdt_cpus(const struct acpi_config *c, struct aml *a)
{
    for (unsigned i = 0; i < c->cpus; i++) {
        char name[5];
        size_t dev;

        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        dev = aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a, dev);
    }
}

/* Static routing by GSI: one element for each pin of each slot (6.2.13 "_PRT"). */
static void pci_prt(struct aml *a)
{
    size_t prt;

    aml_name(a, "_PRT");
    prt = aml_package(a, 4 * 32);
    for (unsigned slot = 0; slot < 32; slot++)
        for (unsigned pin = 0; pin < 4; pin++) {
            size_t row = aml_package(a, 4);

            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0); /* no link device: the next is a GSI */
            aml_int(a, acpi_pci_gsi(slot, pin));
            aml_end(a, row);
        }
    aml_end(a, prt);
}

static void pci_crs(const struct acpi_config *c, struct aml *a)
{
    size_t crs = aml_crs(a);

    aml_res_window(a, AML_BUS, 16, 0, c->last_bus);
    aml_res_io(a, 0xcf8, 8);
    aml_res_window(a, AML_IO, 16, 0, 0xcf7);
    aml_res_window(a, AML_IO, 16, 0xd00, 0xffff);
    if (c->vga)
        aml_res_window(a, AML_MEM, 32, 0xa0000, 0xbffff);
    if (c->mmio32_size)
        aml_res_window(a, AML_MEM, 32, c->mmio32, c->mmio32 + (c->mmio32_size - 1));
    if (c->mmio64_size)
        aml_res_window(a, AML_MEM, 64, c->mmio64, c->mmio64 + (c->mmio64_size - 1));
    aml_crs_end(a, crs);
}

static void dsdt_pci(const struct acpi_config *c, struct aml *a)
{
    size_t dev = aml_device(a, "PCI0");

    aml_name_eisaid(a, "_HID", "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_BBN", 0);
    pci_crs(c, a);
    pci_prt(a);
    aml_end(a, dev);
}

/* A device at fixed ports with, perhaps, an ISA interrupt. `second` 0: one range of ports only. */
static void isa_device(struct aml *a, const char *name, const char *hid, u16 port, u8 len,
                       u16 second, int irq)
{
    size_t dev = aml_device(a, name), crs;

    aml_name_eisaid(a, "_HID", hid);
    crs = aml_crs(a);
    if (len)
        aml_res_io(a, port, len);
    if (second)
        aml_res_io(a, second, len);
    if (irq >= 0)
        aml_res_irq(a, (unsigned)irq);
    aml_crs_end(a, crs);
    aml_end(a, dev);
}

static void dsdt_com(struct aml *a, unsigned n)
{
    char name[5] = {'C', 'O', 'M', (char)('1' + n), 0};
    size_t dev = aml_device(a, name), crs;

    aml_name_eisaid(a, "_HID", "PNP0501");
    aml_name_int(a, "_UID", n + 1);
    crs = aml_crs(a);
    aml_res_io(a, coms[n].port, 8);
    aml_res_irq(a, coms[n].irq);
    aml_crs_end(a, crs);
    aml_end(a, dev);
}

static void dsdt_hpet(const struct acpi_config *c, struct aml *a)
{
    size_t dev = aml_device(a, "HPET"), crs;

    aml_name_eisaid(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    crs = aml_crs(a);
    aml_res_mem32(a, (u32)c->hpet, 0x400);
    aml_crs_end(a, crs);
    aml_end(a, dev);
}

/* What the board itself occupies, so that nobody places a device over it. */
static void dsdt_board(const struct acpi_config *c, struct aml *a)
{
    size_t dev = aml_device(a, "MBRD"), crs;

    aml_name_eisaid(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 0);
    crs = aml_crs(a);
    aml_res_io(a, c->pm1_evt, 4);
    aml_res_io(a, c->pm1_cnt, 2);
    aml_res_io(a, c->pm_tmr, 4);
    if (c->gpe0)
        aml_res_io(a, c->gpe0, c->gpe0_len);
    aml_res_mem32(a, (u32)c->ioapic, 0x1000);
    aml_res_mem32(a, 0xfee00000, 0x1000);
    aml_crs_end(a, crs);
    aml_end(a, dev);
}

static void dsdt_devices(const struct acpi_config *c, struct aml *a)
{
    dsdt_cpus(c, a);
    dsdt_board(c, a);
    if (c->pci)
        dsdt_pci(c, a);
    for (unsigned i = 0; i < ARRAY_SIZE(coms); i++)
        if (c->coms >> i & 1)
            dsdt_com(a, i);
    if (c->rtc)
        isa_device(a, "RTC", "PNP0B00", 0x70, 2, 0, 8);
    if (c->i8042)
        isa_device(a, "PS2K", "PNP0303", 0x60, 1, 0x64, 1);
    if (c->i8042 && c->mouse)
        isa_device(a, "PS2M", "PNP0F13", 0, 0, 0, 12);
    if (c->hpet)
        dsdt_hpet(c, a);
}

static void dsdt_body(const struct acpi_config *c, struct aml *a)
{
    size_t mark;

    /* \_PIC tells which interrupt model is in use; _PRT speaks of GSIs in both. */
    aml_name_int(a, "\\PICM", 0);
    mark = aml_method(a, "\\_PIC", 1);
    aml_store_arg(a, 0, "PICM");
    aml_end(a, mark);

    aml_name(a, "\\_S5");
    mark = aml_package(a, 4);
    aml_int(a, c->s5_typ);
    aml_int(a, c->s5_typ);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a, mark);

    mark = aml_scope(a, "\\_SB");
    dsdt_devices(c, a);
    aml_end(a, mark);
}

static gpa_t add_dsdt(const struct acpi_config *c, struct image *im)
{
    struct aml a;
    struct sdt h;
    u64 at;
    gpa_t gpa = 0;

    aml_init(&a);
    dsdt_body(c, &a);
    at = place(im, sizeof(h) + a.len, 16);
    im->full |= a.failed;
    if (!im->full) {
        h = header("DSDT", 2, (u32)(sizeof(h) + a.len));
        memcpy(im->bytes + at, &h, sizeof(h));
        memcpy(im->bytes + at + sizeof(h), a.buf, a.len);
        im->bytes[at + offsetof(struct sdt, checksum)] = checksum(im->bytes + at, h.length);
        gpa = im->where + at;
    }
    aml_free(&a);
    return gpa;
}

/* --- fixed tables --- */

static gpa_t add_facs(struct image *im)
{
    struct facs f = {.signature = {'F', 'A', 'C', 'S'}, .length = sizeof(f), .version = 2};
    u64 at = place(im, sizeof(f), 64);

    if (im->full)
        return 0;
    memcpy(im->bytes + at, &f, sizeof(f)); /* no checksum: the guest writes to it */
    return im->where + at;
}

static struct gas io_gas(u16 port, u8 bytes, u8 access)
{
    if (!port)
        return (struct gas){0};
    return (struct gas){GAS_IO, bytes * 8, 0, access, port};
}

static gpa_t add_fadt(const struct acpi_config *c, struct image *im, gpa_t facs, gpa_t dsdt)
{
    /* SMI_CMD is 0: the machine is in ACPI mode always. The power button is the fixed one. */
    struct fadt f = {
        .h = header("FACP", 6, sizeof(f)),
        .facs = (u32)facs,
        .dsdt = (u32)dsdt,
        .sci_int = c->sci_irq,
        .pm1a_evt_blk = c->pm1_evt,
        .pm1a_cnt_blk = c->pm1_cnt,
        .pm_tmr_blk = c->pm_tmr,
        .gpe0_blk = c->gpe0,
        .pm1_evt_len = 4,
        .pm1_cnt_len = 2,
        .pm_tmr_len = 4,
        .gpe0_blk_len = c->gpe0 ? c->gpe0_len : 0,
        .p_lvl2_lat = 0xfff, /* above 100 and 1000: there is no C2 and no C3 */
        .p_lvl3_lat = 0xfff,
        .century = c->rtc_century,
        .iapc_boot_arch = BOOT_LEGACY_DEVICES | BOOT_NO_ASPM | (c->i8042 ? BOOT_8042 : 0) |
                          (c->vga ? 0 : BOOT_NO_VGA) | (c->rtc ? 0 : BOOT_NO_RTC),
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_RTC_WAKE |
                 (c->pm_tmr_32bit ? FADT_TMR_VAL_EXT : 0) | (c->reset_port ? FADT_RESET_REG : 0),
        .reset_reg = io_gas(c->reset_port, 1, 1),
        .reset_value = c->reset_val,
        .x_facs = facs,
        .x_dsdt = dsdt,
        .x_pm1a_evt = io_gas(c->pm1_evt, 4, 2),
        .x_pm1a_cnt = io_gas(c->pm1_cnt, 2, 2),
        .x_pm_tmr = io_gas(c->pm_tmr, 4, 3),
        .x_gpe0 = io_gas(c->gpe0, c->gpe0_len, 1),
    };

    return add_table(im, &f, sizeof(f));
}

struct madt_writer {
    u8 *p;
};

static void madt_add(struct madt_writer *w, const void *entry, size_t n)
{
    memcpy(w->p, entry, n);
    w->p += n;
}

/* xAPIC entries have 8 bits of id, and 255 is broadcast: from there on it takes x2APIC entries. */
static void madt_cpu(struct madt_writer *w, u32 uid, u32 apic_id)
{
    if (apic_id < 255 && uid < 255) {
        struct madt_lapic e = {0, sizeof(e), (u8)uid, (u8)apic_id, MADT_ENABLED};
        madt_add(w, &e, sizeof(e));
    } else {
        struct madt_x2apic e = {9, sizeof(e), 0, apic_id, MADT_ENABLED, uid};
        madt_add(w, &e, sizeof(e));
    }
}

static void madt_entries(const struct acpi_config *c, struct madt_writer *w)
{
    struct madt_ioapic io = {1, sizeof(io), c->ioapic_id, 0, (u32)c->ioapic, 0};
    struct madt_override pit = {2, sizeof(pit), 0, 0, 2, 0}; /* as the ISA bus has it */
    struct madt_override sci = {2, sizeof(sci), 0, c->sci_irq, c->sci_irq, MADT_LEVEL_HIGH};
    struct madt_lapic_nmi nmi = {4, sizeof(nmi), 0xff, 0, 1}; /* LINT1 of all */

    for (unsigned i = 0; i < c->cpus; i++)
        madt_cpu(w, i, c->apic_id ? c->apic_id[i] : i);
    madt_add(w, &io, sizeof(io));
    madt_add(w, &pit, sizeof(pit));
    madt_add(w, &sci, sizeof(sci));
    madt_add(w, &nmi, sizeof(nmi));
}

static gpa_t add_madt(const struct acpi_config *c, struct image *im)
{
    u64 most = sizeof(struct madt) + c->cpus * sizeof(struct madt_x2apic) + 64;
    u8 *buf = malloc(most);
    struct madt_writer w;
    struct madt h;
    gpa_t gpa;

    if (!buf) {
        im->full = true;
        return 0;
    }
    w.p = buf + sizeof(h);
    madt_entries(c, &w);
    h = (struct madt){
        .h = header("APIC", 4, (u32)(w.p - buf)),
        .lapic = 0xfee00000,
        .flags = MADT_PCAT_COMPAT,
    };
    memcpy(buf, &h, sizeof(h));
    gpa = add_table(im, buf, h.h.length);
    free(buf);
    return gpa;
}

static gpa_t add_hpet(const struct acpi_config *c, struct image *im)
{
    struct hpet t = {
        .h = header("HPET", 1, sizeof(t)),
        .id = c->hpet_id,
        .base = {GAS_MEMORY, 64, 0, 0, c->hpet},
    };

    return add_table(im, &t, sizeof(t));
}

#define TABLES_MAX 4

/* RSDT (width 4) or XSDT (width 8): the addresses of all tables but DSDT and FACS. */
static gpa_t add_root(struct image *im, const char name[5], unsigned width, const gpa_t *table,
                      unsigned n)
{
    u8 buf[sizeof(struct sdt) + 8 * TABLES_MAX];
    struct sdt h = header(name, 1, (u32)(sizeof(h) + n * width));

    memcpy(buf, &h, sizeof(h));
    for (unsigned i = 0; i < n; i++)
        memcpy(buf + sizeof(h) + i * width, &table[i], width);
    return add_table(im, buf, h.length);
}

static void fill_rsdp(struct image *im, u64 at, gpa_t rsdt, gpa_t xsdt)
{
    struct rsdp r = {
        .signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
        .oem_id = {'P', 'O', 'P', 'F', ' ', ' '},
        .revision = 2,
        .rsdt = (u32)rsdt,
        .length = sizeof(r),
        .xsdt = xsdt,
    };

    r.checksum = checksum(&r, 20);
    r.extended_checksum = checksum(&r, sizeof(r));
    memcpy(im->bytes + at, &r, sizeof(r));
}

static void build(const struct acpi_config *c, struct image *im)
{
    gpa_t table[TABLES_MAX], facs, dsdt, rsdt, xsdt;
    unsigned n = 0;
    u64 rsdp = place(im, sizeof(struct rsdp), 16);

    facs = add_facs(im);
    dsdt = add_dsdt(c, im);
    table[n++] = add_fadt(c, im, facs, dsdt);
    table[n++] = add_madt(c, im);
    if (c->hpet)
        table[n++] = add_hpet(c, im);
    rsdt = add_root(im, "RSDT", 4, table, n);
    xsdt = add_root(im, "XSDT", 8, table, n);
    if (!im->full)
        fill_rsdp(im, rsdp, rsdt, xsdt);
}

int acpi_build(const struct acpi_config *c, struct mem *m, gpa_t where, u64 room, gpa_t *rsdp,
               struct err *e)
{
    struct image im = {.bytes = calloc(1, room), .where = where, .room = room};
    int ret = -1;

    if (!im.bytes)
        return err_errno(e, "building the ACPI tables");
    build(c, &im);
    if (where & 63 || where + room > 4 * GiB)
        err_set(e, "the ACPI tables cannot be placed at %#llx", (unsigned long long)where);
    else if (im.full)
        err_set(e, "the ACPI tables for %u CPUs need more than %llu bytes", c->cpus,
                (unsigned long long)room);
    else if (mem_write(m, where, im.bytes, im.used) < 0)
        err_set(e, "there is no guest RAM at %#llx for the ACPI tables", (unsigned long long)where);
    else
        ret = 0;
    free(im.bytes);
    *rsdp = where; /* the first thing placed */
    return ret;
}
