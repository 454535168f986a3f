/*
 * guest.c - see guest.h.
 */
#include "guest.h"

#define COM1        0x3f8
#define EXIT        0xf4
#define PM_TIMER_HZ 3579545u

const char *cmdline = "";
u64 gdt[GDT_N] __attribute__((aligned(16)));
word idt[256 * 2] __attribute__((aligned(16)));
struct tss tss;
handler_fn *handler[256];
struct ctx current; /* of the code that runs; start*.S */
static bool running;
static unsigned claims, failed;
static u8 kernel_stack[8192] __attribute__((aligned(16)));
static u8 ring_stack[2][8192] __attribute__((aligned(16))); /* ring 0 and ring 3 */
u8 *const kernel_stack_top = kernel_stack + sizeof(kernel_stack);

extern const char trap_stubs[]; /* 16 bytes each */
void enter_guest(void);
void leave_guest(void) __attribute__((noreturn));
void guest_start(word info);

/* --- libc's --- */

void *memset(void *d, int c, size_t n)
{
    void *p = d;
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
    return d;
}

void *memcpy(void *d, const void *s, size_t n)
{
    void *p = d;
    __asm__ volatile("rep movsb" : "+D"(p), "+S"(s), "+c"(n) : : "memory");
    return d;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *p = a, *q = b;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

/* --- console --- */

static void put_char(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        cpu_relax();
    outb(COM1, (u8)c);
}

static void put_string(const char *s)
{
    while (*s)
        put_char(*s++);
}

static void put_hex(u64 v)
{
    int n = 60;
    while (n > 0 && !(v >> n))
        n -= 4;
    for (; n >= 0; n -= 4)
        put_char("0123456789abcdef"[v >> n & 15]);
}

static void put_decimal(u32 v)
{
    if (v >= 10)
        put_decimal(v / 10);
    put_char((char)('0' + v % 10));
}

static void vprint(const char *f, va_list ap)
{
    for (; *f; f++) {
        if (*f != '%') {
            put_char(*f);
            continue;
        }
        unsigned l = 0;
        while (*++f == 'l')
            l++;
        int d = 0;
        switch (*f) {
        case 's':
            put_string(va_arg(ap, const char *));
            break;
        case 'c':
            put_char((char)va_arg(ap, int));
            break;
        case 'd':
            d = l ? (int)va_arg(ap, long) : va_arg(ap, int);
            if (d < 0)
                put_char('-');
            put_decimal((u32)(d < 0 ? -d : d));
            break;
        case 'u':
            put_decimal(l ? (u32)va_arg(ap, word) : va_arg(ap, u32));
            break;
        case 'x':
            put_hex(l == 2 ? va_arg(ap, u64) : l ? va_arg(ap, word) : va_arg(ap, u32));
            break;
        default:
            put_char(*f);
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

void ok(bool cond, const char *fmt, ...)
{
    va_list ap;
    claims++;
    failed += !cond;
    put_string(cond ? "ok " : "not ok ");
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    put_char('\n');
}

void expect(const char *name, u64 got, u64 want)
{
    if (got == want)
        ok(true, "%s", name);
    else
        ok(false, "%s: got %llx, want %llx", name, (unsigned long long)got,
           (unsigned long long)want);
}

void skip(const char *name, const char *why)
{
    claims++;
    print("ok %s # SKIP %s\n", name, why);
}

void known(bool cond, const char *name, const char *why)
{
    claims++;
    if (cond)
        print("ok %s\n", name);
    else
        print("not ok %s # TODO %s\n", name, why);
}

unsigned failures(void)
{
    return failed;
}

void leave(void)
{
    print("end %u\n", claims);
    outl(EXIT, failed || !claims);
    for (;;)
        __asm__ volatile("cli; hlt");
}

u32 cmdline_number(const char *name, u32 otherwise)
{
    size_t n = strlen(name);
    for (const char *p = cmdline; *p; p++) {
        if (memcmp(p, name, n) || p[n] != '=')
            continue;
        u32 v = 0;
        for (p += n + 1; *p >= '0' && *p <= '9'; p++)
            v = v * 10 + (u32)(*p - '0');
        return v;
    }
    return otherwise;
}

/* --- time: ACPI PM timer, at popf's port or at QEMU's --- */

static u32 pm_timer(void)
{
    static u16 port;
    u32 v;
    if (!port) {
        port = 0x608;
        __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
        if (v == 0xffffffff) { /* QEMU's PIIX4: set PMBA to 0x600 and switch it on */
            outl(0xcf8, 0x80000b40);
            outl(0xcfc, 0x601);
            outl(0xcf8, 0x80000b80);
            outb(0xcfc, 1);
        }
    }
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v & 0xffffff;
}

u32 usec(void)
{
    static u32 last, us, rest;
    u32 now = pm_timer(), ticks = (now - last) & 0xffffff;
    last = now;
    /* 1 / 3.579545 = 0.279365 us a tick; in 1/1024ths */
    rest += ticks % 4096 * 286;
    us += ticks / 4096 * 1144 + rest / 1024;
    rest %= 1024;
    return us;
}

void udelay(u32 us)
{
    u32 from = usec();
    while (usec() - from < us)
        cpu_relax();
}

/* --- tables --- */

u64 make_desc(u32 base, u32 limit, u32 attr)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xff) << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)(attr >> 12 & 0xf) << 52 | (u64)(base >> 24) << 56;
}

void set_gate(unsigned vec, unsigned sel, word off, unsigned type, unsigned dpl, unsigned ist)
{
    u64 lo = (off & 0xffff) | (u64)sel << 16 | (u64)ist << 32 |
             (u64)(0x80 | dpl << 5 | type) << 40 | (u64)(off & 0xffff0000u) << 32;
#if IS64
    idt[vec * 2] = lo;
    idt[vec * 2 + 1] = off >> 32;
#else
    idt[vec * 2] = (u32)lo;
    idt[vec * 2 + 1] = (u32)(lo >> 32);
#endif
}

void reset_gate(unsigned vec)
{
    set_gate(vec, SEL_CODE0, (word)trap_stubs + vec * 16, GATE_INT, 3, 0);
}

void load_tr(void)
{
    gdt[SEL_TSS / 8] = make_desc((u32)(word)&tss, sizeof(tss) - 1, 0x89);
    gdt[SEL_TSS / 8 + 1] = 0;
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
}

void load_gdt_idt(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) g = {sizeof(gdt) - 1, (word)gdt}, i = {sizeof(idt) - 1, (word)idt};
    __asm__ volatile("lgdt %0; lidt %1" : : "m"(g), "m"(i) : "memory");
#if IS64
    __asm__ volatile("pushq %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:"
                     :
                     : "i"(SEL_CODE0)
                     : "rax", "memory");
#else
    __asm__ volatile("ljmp %0, $1f; 1:" : : "i"(SEL_CODE0) : "memory");
#endif
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %0, %%fs; mov %0, %%gs"
                     :
                     : "r"(SEL_DATA0));
}

static void load_tables(void)
{
    const u32 flat = 0xfffff, big = ATTR_G | ATTR_DB;
    gdt[1] = make_desc(0, flat, ATTR_CODE | ATTR_G | (IS64 ? ATTR_L : ATTR_DB));
    gdt[2] = make_desc(0, flat, ATTR_DATA | big);
    gdt[3] = make_desc(0, flat, ATTR_CODE | big | ATTR_DPL(3));
    gdt[4] = gdt[6] = make_desc(0, flat, ATTR_DATA | big | ATTR_DPL(3));
    gdt[5] = make_desc(0, flat, ATTR_CODE | ATTR_G | ATTR_L | ATTR_DPL(3));
    gdt[7] = make_desc(0, flat, ATTR_CODE | big);
    for (unsigned v = 0; v < 256; v++)
        reset_gate(v);
    load_gdt_idt();
#if IS64
    tss.sp[0] = (word)kernel_stack_top;
#else
    tss.esp0 = (word)kernel_stack_top;
    tss.ss0 = SEL_DATA0;
#endif
    tss.iomap = offsetof(struct tss, bitmap);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    load_tr();
}

/* --- traps --- */

static void save(struct ctx *c, struct frame *f)
{
#if IS64
    const word *r = &f->r15;
    for (unsigned n = 0; n < 16; n++)
        c->gpr[n] = r[15 - n];
    c->gpr[SP] = f->sp;
    c->ss = f->ss;
#else
    bool v86 = f->flags & FL_VM, outer = v86 || f->cs & 3;
    const word *r = &f->di;
    for (unsigned n = 0; n < 8; n++)
        c->gpr[n] = r[7 - n];
    c->gpr[SP] = outer ? f->sp : (word)&f->sp;
    if (outer)
        c->ss = f->ss;
    /* PUSH of a segment register may leave the upper half of its slot alone. */
    c->ds = (u16)(v86 ? f->v86_ds : f->ds);
    c->es = (u16)(v86 ? f->v86_es : f->es);
    c->fs = (u16)(v86 ? f->v86_fs : f->fs);
    c->gs = (u16)(v86 ? f->v86_gs : f->gs);
#endif
    c->ip = f->ip;
    c->cs = f->cs;
    c->flags = f->flags;
    c->vec = f->vec;
    c->err = f->err;
    c->cr2 = read_cr2();
    c->has_err = f->vec == 8 || f->vec == 17 || (f->vec >= 10 && f->vec <= 14);
    c->frame = c->has_err ? (word)&f->err : (word)&f->ip;
}

void trap(struct frame *f)
{
    if (handler[f->vec & 255]) {
        handler[f->vec & 255](f);
        return;
    }
    if (running) {
        running = false;
        save(&current, f);
        leave_guest();
    }
    ok(false, "vector %lx, error code %lx, at %lx:%lx, CR2 %lx in the test itself", f->vec, f->err,
       f->cs, f->ip, read_cr2());
    leave();
}

bool is_running(void)
{
    return running;
}

void ctx_init(struct ctx *c, const struct snip *s, unsigned ring)
{
    memset(c, 0, sizeof(*c));
    c->ip = s ? s->start : 0;
    c->cs = ring ? SEL_CODE3 : SEL_CODE0;
    c->ss = c->ds = c->es = c->fs = c->gs = ring ? SEL_DATA3 : SEL_DATA0;
    c->flags = FL_ONE | (ring == 3 ? FL_IF : 0);
    c->gpr[SP] = (word)ring_stack[ring ? 1 : 0] + sizeof(ring_stack[0]) - 512;
}

void run(struct ctx *c)
{
    current = *c;
    running = true;
    enter_guest();
    *c = current;
}

/* --- one instruction that may fault --- */

SNIP(snip_wrmsr, "", "wrmsr");
SNIP(snip_rdmsr, "", "rdmsr");
#if IS64
#define REG_A "%rax"
#define REG_C "%rcx"
#else
#define REG_A "%eax"
#define REG_C "%ecx"
#endif
#define MOV_CR(n) "mov " REG_C ", %cr" #n "; mov " REG_A ", %cr" #n
SNIP(snip_cr0, "mov %cr0, " REG_A, MOV_CR(0));
SNIP(snip_cr3, "mov %cr3, " REG_A, MOV_CR(3));
SNIP(snip_cr4, "mov %cr4, " REG_A, MOV_CR(4));
int try_wrmsr(u32 msr, u64 v)
{
    struct ctx c;
    ctx_init(&c, &snip_wrmsr, 0);
    c.gpr[CX] = msr;
    c.gpr[AX] = (u32)v;
    c.gpr[DX] = (u32)(v >> 32);
    run(&c);
    return c.vec == VEC_DONE ? -1 : (int)c.vec;
}

int try_rdmsr(u32 msr, u64 *v)
{
    struct ctx c;
    ctx_init(&c, &snip_rdmsr, 0);
    c.gpr[CX] = msr;
    run(&c);
    *v = (u32)c.gpr[AX] | (u64)c.gpr[DX] << 32;
    return c.vec == VEC_DONE ? -1 : (int)c.vec;
}

int try_cr(unsigned n, word v)
{
    struct ctx c;
    ctx_init(&c, n == 0 ? &snip_cr0 : n == 3 ? &snip_cr3 : &snip_cr4, 0);
    c.gpr[CX] = v;
    run(&c);
    return c.vec == VEC_DONE ? -1 : (int)c.vec;
}

/* --- start --- */

void guest_start(word info)
{
    const u32 *mb = (const u32 *)(word)(u32)info;
    if (mb[0] & 4)
        cmdline = (const char *)(word)mb[4];
    outb(0x21, 0xff); /* no interrupts but those that a test asks for */
    outb(0xa1, 0xff);
    load_tables();
    write_cr0((read_cr0() | CR0_NE) & ~(word)(CR0_EM | CR0_TS));
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
#if IS64
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
#endif
    main();
    leave();
}
