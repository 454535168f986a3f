/* The ACPI tables as an operating system reads them: from the RSDP down, every checksum. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm/acpi.h"
#include "vm/acpi_aml.h"

static const struct acpi_config pc = {
    .cpus = 4,
    .ioapic = 0xfec00000,
    .ioapic_id = 4,
    .sci_irq = 9,
    .pm1_evt = 0x600,
    .pm1_cnt = 0x604,
    .pm_tmr = 0x608,
    .pm_tmr_32bit = true,
    .s5_typ = 5,
    .reset_port = 0xcf9,
    .reset_val = 6,
    .hpet = 0xfed00000,
    .hpet_id = 0x8086a201,
    .coms = 3,
    .i8042 = true,
    .mouse = true,
    .rtc = true,
    .rtc_century = 0x32,
    .pci = true,
    .last_bus = 255,
    .mmio32 = 0xe0000000,
    .mmio32_size = 0x1ec00000,
    .mmio64 = 0x800000000,
    .mmio64_size = 0x800000000,
};

struct machine {
    struct mem mem;
    gpa_t rsdp;
};

static int setup(void **state)
{
    struct machine *vm = calloc(1, sizeof(*vm));
    struct err e;

    *state = vm;
    return !vm || mem_init(&vm->mem, &e) || mem_add_ram(&vm->mem, 0, 1 * MiB, false, &e) ||
           acpi_build(&pc, &vm->mem, ACPI_AREA, ACPI_AREA_SIZE, &vm->rsdp, &e);
}

static int teardown(void **state)
{
    struct machine *vm = *state;

    mem_free(&vm->mem);
    free(vm);
    return 0;
}

static const u8 *at(struct machine *vm, gpa_t gpa, u64 len)
{
    const u8 *p = mem_range(&vm->mem, gpa, len);

    assert_non_null(p);
    return p;
}

static u64 le(const u8 *p, unsigned n)
{
    u64 v = 0;

    memcpy(&v, p, n);
    return v;
}

static u8 sum(const u8 *p, u64 n)
{
    u8 s = 0;

    while (n--)
        s += *p++;
    return s;
}

/* The table with this signature, found through the XSDT, its checksum proved. */
static const u8 *find(struct machine *vm, const char *signature)
{
    gpa_t xsdt = le(at(vm, vm->rsdp, 36) + 24, 8);
    const u8 *x = at(vm, xsdt, 36);
    u64 len = le(x + 4, 4);

    x = at(vm, xsdt, len);
    for (u64 i = 36; i < len; i += 8) {
        gpa_t gpa = le(x + i, 8);
        const u8 *t = at(vm, gpa, 36);

        t = at(vm, gpa, le(t + 4, 4));
        assert_int_equal(sum(t, le(t + 4, 4)), 0);
        if (!memcmp(t, signature, 4))
            return t;
    }
    fail_msg("no table %s", signature);
    return NULL;
}

static void test_roots(void **state)
{
    struct machine *vm = *state;
    const u8 *r = at(vm, vm->rsdp, 36), *rsdt, *xsdt;

    assert_int_equal(vm->rsdp & 15, 0);
    assert_memory_equal(r, "RSD PTR ", 8);
    assert_int_equal(sum(r, 20), 0);
    assert_int_equal(sum(r, 36), 0);
    assert_int_equal(r[15], 2);
    rsdt = at(vm, le(r + 16, 4), 48);
    xsdt = at(vm, le(r + 24, 8), 60);
    assert_memory_equal(rsdt, "RSDT", 4);
    assert_memory_equal(xsdt, "XSDT", 4);
    assert_int_equal(sum(rsdt, le(rsdt + 4, 4)), 0);
    assert_int_equal(sum(xsdt, le(xsdt + 4, 4)), 0);
    assert_int_equal(le(rsdt + 4, 4), 36 + 3 * 4);
    assert_int_equal(le(xsdt + 4, 4), 36 + 3 * 8);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(le(rsdt + 36 + 4 * i, 4), le(xsdt + 36 + 8 * i, 8));
}

static void test_fadt(void **state)
{
    struct machine *vm = *state;
    const u8 *f = find(vm, "FACP"), *facs, *dsdt;

    assert_int_equal(le(f + 4, 4), 276);
    assert_int_equal(le(f + 46, 2), 9);
    assert_int_equal(le(f + 48, 4), 0); /* SMI_CMD */
    assert_int_equal(le(f + 56, 4), 0x600);
    assert_int_equal(le(f + 64, 4), 0x604);
    assert_int_equal(le(f + 76, 4), 0x608);
    assert_int_equal(f[108], 0x32);
    assert_int_equal(le(f + 109, 2) & 2, 2);       /* 8042 */
    assert_int_equal(le(f + 112, 4) & BIT(20), 0); /* HW_REDUCED */
    assert_int_equal(le(f + 112, 4) & BIT(4), 0);  /* fixed power button */
    assert_int_equal(le(f + 112, 4) & BIT(8), BIT(8));
    assert_int_equal(le(f + 112, 4) & BIT(10), BIT(10));
    assert_int_equal(f[116], 1); /* reset register: I/O space, 8 bits */
    assert_int_equal(f[117], 8);
    assert_int_equal(le(f + 120, 8), 0xcf9);
    assert_int_equal(f[128], 6);
    assert_int_equal(le(f + 36, 4), le(f + 132, 8));
    assert_int_equal(le(f + 40, 4), le(f + 140, 8));
    facs = at(vm, le(f + 132, 8), 64);
    assert_int_equal(le(f + 132, 8) & 63, 0);
    assert_memory_equal(facs, "FACS", 4);
    dsdt = at(vm, le(f + 140, 8), 36);
    assert_memory_equal(dsdt, "DSDT", 4);
    dsdt = at(vm, le(f + 140, 8), le(dsdt + 4, 4));
    assert_int_equal(sum(dsdt, le(dsdt + 4, 4)), 0);
}

/* Offset of the n-th entry of a type in the MADT, 0 if there are fewer. */
static u64 madt_entry(const u8 *t, u8 type, unsigned n)
{
    u64 len = le(t + 4, 4), i;

    for (i = 44; i < len; i += t[i + 1]) {
        assert_true(t[i + 1] >= 2);
        if (t[i] == type && n-- == 0)
            return i;
    }
    assert_int_equal(i, len);
    return 0;
}

static void test_madt(void **state)
{
    const u8 *t = find(*state, "APIC");

    assert_int_equal(le(t + 36, 4), 0xfee00000);
    assert_int_equal(le(t + 40, 4), 1);
    for (unsigned i = 0; i < 4; i++) {
        u64 o = madt_entry(t, 0, i);
        assert_int_not_equal(o, 0);
        assert_int_equal(t[o + 2], i);
        assert_int_equal(t[o + 3], i);
        assert_int_equal(le(t + o + 4, 4), 1);
    }
    assert_int_equal(madt_entry(t, 0, 4), 0);
    u64 io = madt_entry(t, 1, 0), pit = madt_entry(t, 2, 0), sci = madt_entry(t, 2, 1);
    assert_int_equal(le(t + io + 4, 4), 0xfec00000);
    assert_int_equal(le(t + io + 8, 4), 0);
    assert_int_equal(t[pit + 3], 0);
    assert_int_equal(le(t + pit + 4, 4), 2);
    assert_int_equal(t[sci + 3], 9);
    assert_int_equal(le(t + sci + 4, 4), 9);
    assert_int_equal(le(t + sci + 8, 2) >> 2, 3); /* level */
    assert_int_not_equal(madt_entry(t, 4, 0), 0);
}

static void test_large_ids(void **state)
{
    static const u32 ids[] = {0, 254, 255, 1000};
    struct machine *vm = *state;
    struct acpi_config c = pc;
    const u8 *t;
    struct err e;

    c.apic_id = ids;
    assert_int_equal(acpi_build(&c, &vm->mem, ACPI_AREA, ACPI_AREA_SIZE, &vm->rsdp, &e), 0);
    t = find(vm, "APIC");
    assert_int_equal(t[madt_entry(t, 0, 1) + 3], 254);
    assert_int_equal(madt_entry(t, 0, 2), 0);
    assert_int_equal(le(t + madt_entry(t, 9, 0) + 4, 4), 255);
    assert_int_equal(le(t + madt_entry(t, 9, 1) + 4, 4), 1000);
    assert_int_equal(le(t + madt_entry(t, 9, 1) + 12, 4), 3);
}

static void test_failures(void **state)
{
    struct machine *vm = *state;
    struct acpi_config c = pc;
    struct err e;
    gpa_t r;

    assert_int_equal(acpi_build(&pc, &vm->mem, ACPI_AREA, 1000, &r, &e), -1);
    assert_non_null(strstr(e.msg, "1000 bytes"));
    assert_int_equal(acpi_build(&pc, &vm->mem, 2 * MiB, ACPI_AREA_SIZE, &r, &e), -1);
    assert_non_null(strstr(e.msg, "no guest RAM"));
    c.cpus = 254;
    assert_int_equal(acpi_build(&c, &vm->mem, ACPI_AREA, ACPI_AREA_SIZE, &r, &e), 0);
    for (u64 room = 0; room < 8192; room += 100)
        acpi_build(&pc, &vm->mem, ACPI_AREA, room, &r, &e);
}

/* Every encoding against bytes worked out by hand from chapter 20. */
static void test_encoder(void **state)
{
    static const u8 want[] = {
        0x08, '\\', '_',  'S',  '5',  '_',  0x12, 0x07, 0x04, 0x0a, 0x05, 0x01, 0x00, 0x00,
        0x0c, 0x41, 0xd0, 0x0a, 0x03, 0x10, 0x0b, '\\', 0x2e, '_',  'S',  'B',  '_',  'P',
        'C',  'I',  '0',  0x5b, 0x82, 0x0d, 'C',  'P',  'U',  '_',  0x08, '_',  'U',  'I',
        'D',  0x0b, 0x34, 0x12, 0x11, 0x05, 0x0a, 0x02, 0xaa, 0xbb, 0x0e, 0xef, 0xcd, 0xab,
        0x89, 0x67, 0x45, 0x23, 0x01, 0x14, 0x0d, '_',  'P',  'I',  'C',  0x01, 0x70, 0x68,
        '^',  'A',  '_',  '_',  '_',  0x2f, 0x03, 'A',  '_',  '_',  '_',  'B',  '_',  '_',
        '_',  'C',  '_',  '_',  '_',  0x08, '_',  'C',  'R',  'S',  0x11, 0x0d, 0x0a, 0x0a,
        0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08, 0x79, 0x00,
    };
    struct aml a;
    size_t m;

    aml_init(&a);
    aml_name(&a, "\\_S5");
    m = aml_package(&a, 4);
    aml_int(&a, 5);
    aml_int(&a, 1);
    aml_int(&a, 0);
    aml_int(&a, 0);
    aml_end(&a, m);
    aml_eisaid(&a, "PNP0A03");
    aml_end(&a, aml_scope(&a, "\\_SB.PCI0"));
    m = aml_device(&a, "CPU");
    aml_name_int(&a, "_UID", 0x1234);
    aml_end(&a, m);
    aml_buffer(&a, "\xaa\xbb", 2);
    aml_int(&a, 0x0123456789abcdef);
    m = aml_method(&a, "_PIC", 1);
    aml_store_arg(&a, 0, "^A");
    aml_end(&a, m);
    aml_ref(&a, "A.B.C");
    m = aml_crs(&a);
    aml_res_io(&a, 0x3f8, 8);
    aml_crs_end(&a, m);
    assert_false(a.failed);
    assert_int_equal(a.len, sizeof(want));
    assert_memory_equal(a.buf, want, sizeof(want));
    aml_free(&a);
}

/* PkgLength grows a byte at 64, 4096 and 1 Mi; the length counts itself. */
static void test_package_lengths(void **state)
{
    static const struct {
        size_t body;
        u8 enc[4];
        unsigned n;
    } rows[] = {
        {62, {0x3f}, 1},
        {63, {0x41, 0x04}, 2},
        {4093, {0x4f, 0xff}, 2},
        {4094, {0x81, 0x00, 0x01}, 3},
        {(1 << 20) - 4, {0x8f, 0xff, 0xff}, 3},
        {(1 << 20) - 3, {0xc1, 0x00, 0x00, 0x01}, 4},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct aml a;
        size_t m;

        aml_init(&a);
        m = aml_package(&a, 0);
        for (size_t n = 1; n < rows[i].body; n++)
            aml_int(&a, 0);
        aml_end(&a, m);
        assert_false(a.failed);
        assert_int_equal(a.len, 1 + rows[i].n + rows[i].body);
        assert_memory_equal(a.buf + 1, rows[i].enc, rows[i].n);
        aml_free(&a);
    }
}

/* Writes a table of the image to `path` and lets iasl disassemble it. */
static void disassemble(const char *dir, const char *name, const u8 *table)
{
    char path[200], cmd[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(table, 1, le(table + 4, 4), f), le(table + 4, 4));
    fclose(f);
    snprintf(cmd, sizeof(cmd), "cd %s && iasl -d %s.dat >%s.log 2>&1", dir, name, name);
    assert_int_equal(system(cmd), 0);
    snprintf(cmd, sizeof(cmd), "cd %s && ! grep -iE 'error|invalid|incorrect|exceed' %s.log %s.dsl",
             dir, name, name);
    assert_int_equal(system(cmd), 0);
}

static void test_iasl(void **state)
{
    struct machine *vm = *state;
    char dir[] = "/tmp/popf-acpi-XXXXXX", cmd[256];
    const u8 *f = find(vm, "FACP"), *dsdt = at(vm, le(f + 140, 8), 36);

    if (system("command -v iasl >/dev/null 2>&1") != 0) {
        print_message("# iasl (Debian package acpica-tools) is not installed\n");
        return;
    }
    assert_non_null(mkdtemp(dir));
    disassemble(dir, "dsdt", at(vm, le(f + 140, 8), le(dsdt + 4, 4)));
    disassemble(dir, "facp", f);
    disassemble(dir, "apic", find(vm, "APIC"));
    disassemble(dir, "hpet", find(vm, "HPET"));
    snprintf(cmd, sizeof(cmd), "cd %s && iasl -vs dsdt.dsl >again.log 2>&1", dir);
    assert_int_equal(system(cmd), 0);
    if (!getenv("POPF_KEEP")) {
        snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
        assert_int_equal(system(cmd), 0);
    } else {
        print_message("# tables kept in %s\n", dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder),
        cmocka_unit_test(test_package_lengths),
        cmocka_unit_test_setup_teardown(test_roots, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fadt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_madt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_iasl, setup, teardown),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
