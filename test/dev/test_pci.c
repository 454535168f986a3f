#include "dev/pci.h"
#include "dev/sysctl92.h"
#include "hand.h"

struct bench {
    struct hand h;
    struct pci_bus pci;
    struct pci_dev card, second;
    struct wire link[PCI_LINKS];
    struct sysctl92 sysctl92;
    unsigned resets;
    unsigned written;
};

/* The card answers with the BAR and the offset. */
static u64 card_read(void *dev, u64 off, unsigned size)
{
    return (u64)(uintptr_t)dev << 16 | off;
}

static const struct bus_ops card_ops = {.read = card_read, .max_size = 4};

static void on_reset(void *arg)
{
    struct bench *b = arg;
    b->resets++;
}

static void on_written(struct pci_dev *d, unsigned off, unsigned size)
{
    struct bench *b = container_of(d, struct bench, card);
    b->written = off << 8 | size;
}

static void start(struct bench *b)
{
    *b = (struct bench){.h = {.port = {.name = "port"}, .mmio = {.name = "mmio"}}};
    struct irq link[PCI_LINKS];
    for (unsigned i = 0; i < PCI_LINKS; i++)
        link[i] = wire_irq(&b->link[i]);
    pci_init(&b->pci, &b->h.port, &b->h.mmio, link);
    pci_dev_init(&b->card, "card", 0x1af4, 0x1041, 0x020000, 1, 1);
    pci_set_subsystem(&b->card, 0x1af4, 0x0040);
    assert_int_equal(pci_bar_io(&b->card, 0, 32, &b->h.port, &card_ops, (void *)0x10), 0);
    assert_int_equal(
        pci_bar_mem(&b->card, 1, 4096, false, false, &b->h.mmio, &card_ops, (void *)0x11), 0);
    assert_int_equal(
        pci_bar_mem(&b->card, 4, 16384, true, true, &b->h.mmio, &card_ops, (void *)0x14), 0);
    b->card.written = on_written;
    assert_int_equal(pci_add(&b->pci, &b->card, 3, 0), 0);
    assert_int_equal(pci_attach(&b->pci), 0);
    sysctl92_init(&b->sysctl92, (struct sysctl92_wires){.reset = on_reset, .arg = b});
    assert_int_equal(sysctl92_attach(&b->sysctl92, &b->h.port), 0);
}

static void address(struct bench *b, unsigned slot, unsigned fn, unsigned off)
{
    OUT32(&b->h, 0xcf8, 0x80000000u | PCI_DEVFN(slot, fn) << 8 | (off & 0xfc));
}

static u32 get(struct bench *b, unsigned slot, unsigned off)
{
    address(b, slot, 0, off);
    return IN32(&b->h, 0xcfc);
}

static void put(struct bench *b, unsigned slot, unsigned off, u32 val)
{
    address(b, slot, 0, off);
    OUT32(&b->h, 0xcfc, val);
}

static void test_mechanism(void **state)
{
    struct bench b;
    start(&b);
    assert_int_equal(get(&b, 0, 0), 0x12378086);
    assert_int_equal(get(&b, 0, 8), 0x06000002);
    assert_int_equal(get(&b, 3, 0), 0x10411af4);
    assert_int_equal(get(&b, 3, 8), 0x02000001);
    assert_int_equal(get(&b, 4, 0), 0xffffffff);
    address(&b, 3, 1, 0);
    assert_int_equal(IN32(&b.h, 0xcfc), 0xffffffff);
    /* The enable bit, another bus. */
    OUT32(&b.h, 0xcf8, 0x00001800);
    assert_int_equal(IN32(&b.h, 0xcfc), 0xffffffff);
    OUT32(&b.h, 0xcf8, 0x80011800);
    assert_int_equal(IN32(&b.h, 0xcfc), 0xffffffff);
    /* Bytes and words of the data port; reserved bits of the address port read as zero. */
    OUT32(&b.h, 0xcf8, 0xff00182fu);
    assert_int_equal(IN32(&b.h, 0xcf8), 0x8000182c);
    assert_int_equal(IN16(&b.h, 0xcfc), 0x1af4);
    assert_int_equal(IN16(&b.h, 0xcfe), 0x0040);
    assert_int_equal(IN8(&b.h, 0xcfe), 0x40);
    /* Only dwords reach the address port; the byte 0xcf9 is the reset register. */
    OUT8(&b.h, 0xcf8, 0x00);
    OUT16(&b.h, 0xcfa, 0x0000);
    assert_int_equal(IN32(&b.h, 0xcf8), 0x8000182c);
    OUT8(&b.h, 0xcf9, 0x02);
    assert_int_equal(b.resets, 0);
    assert_int_equal(IN8(&b.h, 0xcf9), 0x02);
    OUT8(&b.h, 0xcf9, 0x06);
    assert_int_equal(b.resets, 1);
    OUT8(&b.h, 0xcf9, 0x06); /* no rise */
    assert_int_equal(b.resets, 1);
    OUT8(&b.h, 0x92, 0x03);
    assert_int_equal(b.resets, 2);
    assert_int_equal(IN8(&b.h, 0x92), 0x03);
}

static void test_write_masks(void **state)
{
    struct bench b;
    start(&b);
    put(&b, 3, 0x00, 0xdeadbeef);
    assert_int_equal(get(&b, 3, 0x00), 0x10411af4);
    put(&b, 3, 0x08, 0xdeadbeef);
    assert_int_equal(get(&b, 3, 0x08), 0x02000001);
    put(&b, 3, 0x04, 0xffffffff);
    assert_int_equal(get(&b, 3, 0x04), 0x00000407);
    put(&b, 0, 0x04, 0xffffffff);
    assert_int_equal(get(&b, 0, 0x04), 0x00000004); /* the bridge decodes nothing of its own */
    put(&b, 3, 0x3c, 0xffffff0b);
    assert_int_equal(get(&b, 3, 0x3c), 0x0000010b);
    assert_int_equal(b.written, 0x3c04);
    address(&b, 3, 0, 0x3c);
    OUT8(&b.h, 0xcfc, 0x0a);
    assert_int_equal(get(&b, 3, 0x3c), 0x0000010a);
    assert_int_equal(b.written, 0x3c01);
}

static void test_bar_sizing(void **state)
{
    struct bench b;
    start(&b);
    put(&b, 3, 0x10, 0xffffffff);
    assert_int_equal(get(&b, 3, 0x10), 0xffffffe1);
    put(&b, 3, 0x14, 0xffffffff);
    assert_int_equal(get(&b, 3, 0x14), 0xfffff000);
    put(&b, 3, 0x20, 0xffffffff);
    put(&b, 3, 0x24, 0xffffffff);
    assert_int_equal(get(&b, 3, 0x20), 0xffffc00c);
    assert_int_equal(get(&b, 3, 0x24), 0xffffffff);
    put(&b, 3, 0x18, 0xffffffff); /* no such BAR */
    assert_int_equal(get(&b, 3, 0x18), 0);
}

static void test_bar_moving(void **state)
{
    struct bench b;
    start(&b);
    put(&b, 3, 0x10, 0xc000);
    put(&b, 3, 0x14, 0xe0001234); /* the low bits are the BAR's */
    put(&b, 3, 0x20, 0x00008000);
    put(&b, 3, 0x24, 0x00000008);
    assert_int_equal(IN32(&b.h, 0xc004), 0xffffffff);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0001008, 4), 0xffffffff);
    put(&b, 3, 0x04, 0x0001);
    assert_int_equal(IN32(&b.h, 0xc004), 0x100004);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0001008, 4), 0xffffffff);
    put(&b, 3, 0x04, 0x0002);
    assert_int_equal(IN32(&b.h, 0xc004), 0xffffffff);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0001008, 4), 0x110008);
    assert_int_equal(bus_read(&b.h.mmio, 0x80000bffcull, 4), 0x143ffc);
    assert_int_equal(bus_read(&b.h.mmio, 0x80000c000ull, 4), 0xffffffff);
    put(&b, 3, 0x14, 0xe0100000); /* moved while it decodes */
    assert_int_equal(bus_read(&b.h.mmio, 0xe0001008, 4), 0xffffffff);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0100008, 4), 0x110008);
    put(&b, 3, 0x14, 0xffffffff); /* sized while it decodes: off the bus */
    assert_int_equal(bus_read(&b.h.mmio, 0xfffff008, 4), 0xffffffff);
    put(&b, 3, 0x14, 0xe0100000);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0100008, 4), 0x110008);
    put(&b, 3, 0x24, 0xfff00000); /* beyond 52 bits: nowhere */
    assert_int_equal(bus_read(&b.h.mmio, 0xfff0000000008000ull, 4), 0xffffffff);
    pci_reset(&b.pci);
    assert_int_equal(get(&b, 3, 0x14), 0);
    assert_int_equal(get(&b, 3, 0x04), 0);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0100008, 4), 0xffffffff);
}

/* Slot 3's INTA is on PIRQD; slot 7's too: the wire falls when both have let go. */
static void test_intx(void **state)
{
    struct bench b;
    start(&b);
    pci_dev_init(&b.second, "second", 0x1af4, 0x1042, 0x010000, 1, 1);
    assert_int_equal(pci_add(&b.pci, &b.second, 3, 0), -1);
    assert_int_equal(pci_add(&b.pci, &b.second, 32, 0), -1);
    assert_int_equal(pci_add(&b.pci, &b.second, 11, 0), 0);
    struct irq one = pci_intx(&b.card), two = pci_intx(&b.second);
    irq_set(&one, 1);
    irq_set(&one, 1);
    assert_int_equal(b.link[3].level, 1);
    assert_int_equal(get(&b, 3, 4) >> 16 & 8, 8);
    assert_int_equal(get(&b, 11, 4) >> 16 & 8, 0);
    irq_set(&two, 1);
    irq_set(&one, 0);
    assert_int_equal(b.link[3].level, 1);
    put(&b, 11, 4, 0x0400); /* INTx disabled: the status bit stays */
    assert_int_equal(b.link[3].level, 0);
    assert_int_equal(get(&b, 11, 4) >> 16 & 8, 8);
    put(&b, 11, 4, 0x0000);
    assert_int_equal(b.link[3].level, 1);
    pci_reset(&b.pci);
    assert_int_equal(b.link[3].level, 0);
    assert_int_equal(b.link[3].rises, 2);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(b.link[i].rises, 0);
}

static void test_capabilities(void **state)
{
    struct bench b;
    start(&b);
    pci_dev_init(&b.second, "second", 0x1af4, 0x1042, 0x010000, 1, 1);
    assert_int_equal(pci_cap_add(&b.second, 0x09, 13), 0x40);
    assert_int_equal(pci_cap_add(&b.second, 0x11, 12), 0x50);
    assert_int_equal(pci_cap_add(&b.second, 0x09, 164), 0x5c);
    assert_int_equal(pci_cap_add(&b.second, 0x09, 4), -1);
    pci_put(&b.second, 0x52, 2, 0x0003, 0xc000);
    assert_int_equal(pci_add(&b.pci, &b.second, 4, 0), 0);
    assert_int_equal(get(&b, 4, 0x04) >> 16 & 0x10, 0x10);
    assert_int_equal(get(&b, 4, 0x34), 0x40);
    assert_int_equal(get(&b, 4, 0x40), 0x5009);
    assert_int_equal(get(&b, 4, 0x50), 0x00035c11);
    put(&b, 4, 0x50, 0xffffffff);
    assert_int_equal(get(&b, 4, 0x50), 0xc0035c11);
    assert_int_equal(get(&b, 4, 0x5c), 0x0009);
}

static void test_multifunction(void **state)
{
    struct bench b;
    start(&b);
    pci_dev_init(&b.second, "second", 0x1af4, 0x1042, 0x010000, 1, 2);
    assert_int_equal(pci_add(&b.pci, &b.second, 3, 1), 0);
    assert_int_equal(get(&b, 3, 0x0c), 0x00800000);
    address(&b, 3, 1, 0);
    assert_int_equal(IN32(&b.h, 0xcfc), 0x10421af4);
    pci_set_intx(&b.second, 0, 1); /* INTB of slot 3 is PIRQE */
    assert_int_equal(b.link[4].level, 1);
}

static void test_assign(void **state)
{
    static const u8 line[PCI_LINKS] = {10, 10, 11, 11};
    struct bench b;
    start(&b);
    assert_int_equal(pci_assign(&b.pci, 0xc001, 0xd000, 0xe0000800, 0xe0002000, line), -1);
    assert_int_equal(pci_assign(&b.pci, 0xc001, 0xd000, 0xe0000800, 0xf0000000, line), 0);
    assert_int_equal(get(&b, 3, 0x10), 0xc021);
    assert_int_equal(get(&b, 3, 0x14), 0xe0001000);
    assert_int_equal(get(&b, 3, 0x20), 0xe000400c);
    assert_int_equal(get(&b, 3, 0x24), 0);
    assert_int_equal(get(&b, 3, 0x3c) & 0xff, 11);
    assert_int_equal(IN32(&b.h, 0xc020), 0x100000);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0004000, 4), 0x140000);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a);
    start(&b);
    put(&a, 3, 0x14, 0xe0001000);
    put(&a, 3, 0x04, 0x0006);
    pci_set_intx(&a.card, 0, 1);
    SAVE_LOAD(pci_state(&a.pci, s), pci_state(&b.pci, s));
    assert_int_equal(IN32(&b.h, 0xcf8), 0x80001804);
    assert_int_equal(bus_read(&b.h.mmio, 0xe0001008, 4), 0x110008);
    assert_int_equal(b.link[3].level, 1);
    assert_true(pci_bus_master(&b.card));
    /* Another device in the place: refused. */
    struct state out, in;
    state_init_save(&out);
    pci_state(&a.pci, &out);
    pci_put(&b.card, 2, 2, 0x1234, 0);
    state_init_load(&in, out.buf, out.len);
    pci_state(&b.pci, &in);
    assert_true(in.failed);
    state_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mechanism),     cmocka_unit_test(test_write_masks),
        cmocka_unit_test(test_bar_sizing),    cmocka_unit_test(test_bar_moving),
        cmocka_unit_test(test_intx),          cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_multifunction), cmocka_unit_test(test_assign),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
