#include "dev/uart.h"

#define IER_RDA  0x01
#define IER_THRE 0x02
#define IER_RLS  0x04
#define IER_MS   0x08

#define IIR_NONE    0x01
#define IIR_MS      0x00
#define IIR_THRE    0x02
#define IIR_RDA     0x04
#define IIR_RLS     0x06
#define IIR_TIMEOUT 0x0c

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define LCR_DLAB     0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DR     0x01
#define LSR_OE     0x02
#define LSR_BI     0x10
#define LSR_ERRORS 0x1e
#define LSR_EMPTY  0x60 /* THRE and TEMT: always so */

#define MSR_CTS   0x10
#define MSR_DSR   0x20
#define MSR_RI    0x40
#define MSR_DCD   0x80
#define MSR_TERI  0x04
#define MSR_LINES 0xf0

static unsigned fifo_size(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static unsigned trigger(const struct uart *u)
{
    static const u8 level[4] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/* The interrupt of highest priority, as IIR shows it (data sheet, table 5). */
static u8 pending(const struct uart *u)
{
    if ((u->ier & IER_RLS) && u->lsr)
        return IIR_RLS;
    if ((u->ier & IER_RDA) && u->rx_count >= trigger(u))
        return IIR_RDA;
    if ((u->ier & IER_RDA) && u->timeout)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre)
        return IIR_THRE;
    if ((u->ier & IER_MS) && (u->msr & 0x0f))
        return IIR_MS;
    return IIR_NONE;
}

/* OUT2 gates the interrupt on a PC; in loopback mode the pin is inactive. */
static void update(struct uart *u)
{
    bool gate = (u->mcr & MCR_OUT2) && !(u->mcr & MCR_LOOP);
    irq_set(&u->wires.irq, gate && pending(u) != IIR_NONE);
}

/* --- receiving --- */

/* Four character times, after which characters below the trigger level are announced. */
static u64 timeout_ns(const struct uart *u)
{
    unsigned bits2 = 2 * (1 + 5 + (u->lcr & 3) + 1); /* in halves of a bit */
    if (u->lcr & 0x04)
        bits2 += u->lcr & 3 ? 2 : 1;
    if (u->lcr & 0x08)
        bits2 += 2;
    u64 divisor = u->dlm << 8 | u->dll;
    return 4 * bits2 * max_u64(divisor, 1) * 16 * NSEC_PER_SEC / (2 * 1843200);
}

/* The receiver's FIFO was touched: the time without activity begins anew. */
static void restart_timeout(struct uart *u)
{
    u->timeout = 0;
    if ((u->fcr & FCR_ENABLE) && u->rx_count)
        timer_set(&u->timer, clock_now(u->clock) + timeout_ns(u));
    else
        timer_cancel(&u->timer);
}

static void fire(void *arg)
{
    struct uart *u = arg;
    u->timeout = 1;
    update(u);
}

static void push(struct uart *u, u8 byte)
{
    unsigned size = fifo_size(u);
    if (u->rx_count == size) {
        u->lsr |= LSR_OE;
        if (size > 1)
            return;
        u->rx_count = 0; /* without the FIFO the newer character replaces the older */
    }
    u->rx[(u->rx_head + u->rx_count++) % UART_FIFO] = byte;
}

static void clear_rx(struct uart *u)
{
    u->rx_head = 0;
    u->rx_count = 0;
    restart_timeout(u);
}

size_t uart_rx_room(const struct uart *u)
{
    unsigned size = fifo_size(u);
    if ((u->mcr & MCR_LOOP) || u->rx_count >= size)
        return 0;
    return size - u->rx_count;
}

size_t uart_rx(struct uart *u, const u8 *buf, size_t n)
{
    size_t take = min_u64(n, uart_rx_room(u));
    u->refused = take < n;
    if (!take)
        return 0;
    for (size_t i = 0; i < take; i++)
        push(u, buf[i]);
    restart_timeout(u);
    update(u);
    return take;
}

void uart_rx_break(struct uart *u)
{
    if (u->mcr & MCR_LOOP)
        return;
    push(u, 0);
    u->lsr |= LSR_BI;
    restart_timeout(u);
    update(u);
}

/* Last act of a register access: the callback may call uart_rx(). */
static void offer_room(struct uart *u)
{
    if (!u->refused || !uart_rx_room(u))
        return;
    u->refused = 0;
    if (u->wires.room)
        u->wires.room(u->wires.arg);
}

/* --- registers --- */

static void write_thr(struct uart *u, u8 byte)
{
    /* The wire must fall and rise for an edge-triggered controller to see the next THRE. */
    u->thre = 0;
    update(u);
    if (u->mcr & MCR_LOOP) {
        push(u, byte);
        restart_timeout(u);
    } else if (u->wires.tx) {
        u->wires.tx(u->wires.arg, &byte, 1);
    }
    u->thre = 1;
}

static void write_ier(struct uart *u, u8 val)
{
    if ((val & IER_THRE) && !(u->ier & IER_THRE))
        u->thre = 1; /* enabled while the register is empty */
    u->ier = val & 0x0f;
}

static void write_fcr(struct uart *u, u8 val)
{
    bool toggled = (u->fcr ^ val) & FCR_ENABLE;
    u->fcr = val & FCR_ENABLE ? val & 0xc1 : 0;
    if (toggled || ((val & FCR_ENABLE) && (val & FCR_CLEAR_RX)))
        clear_rx(u);
}

/* In loopback mode the modem's outputs are its inputs. */
static u8 modem_lines(const struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
           (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void write_mcr(struct uart *u, u8 val)
{
    u->mcr = val & 0x1f;
    u8 lines = modem_lines(u);
    u8 changed = (lines ^ u->msr) & MSR_LINES;
    u8 delta = changed >> 4;
    if (lines & MSR_RI) /* TERI is the trailing edge only */
        delta &= ~MSR_TERI;
    u->msr = lines | (u->msr & 0x0f) | delta;
}

static void write_reg(void *dev, u64 off, unsigned size, u64 val)
{
    struct uart *u = dev;
    u8 v = val;
    bool dlab = u->lcr & LCR_DLAB;
    switch (off) {
    case 0:
        if (dlab)
            u->dll = v;
        else
            write_thr(u, v);
        break;
    case 1:
        if (dlab)
            u->dlm = v;
        else
            write_ier(u, v);
        break;
    case 2:
        write_fcr(u, v);
        break;
    case 3:
        u->lcr = v;
        break;
    case 4:
        write_mcr(u, v);
        break;
    case 7:
        u->scr = v;
        break;
    default: /* LSR and MSR: factory tests only */
        break;
    }
    update(u);
    offer_room(u);
}

static u8 read_rbr(struct uart *u)
{
    u8 byte = u->rx[u->rx_head % UART_FIFO];
    if (!u->rx_count)
        return 0;
    u->rx_head = (u->rx_head + 1) % UART_FIFO;
    u->rx_count--;
    restart_timeout(u);
    return byte;
}

static u8 read_iir(struct uart *u)
{
    u8 iir = pending(u);
    if (iir == IIR_THRE)
        u->thre = 0;
    return iir | (u->fcr & FCR_ENABLE ? 0xc0 : 0);
}

static u8 read_lsr(struct uart *u)
{
    u8 lsr = u->lsr | LSR_EMPTY | (u->rx_count ? LSR_DR : 0);
    u->lsr = 0;
    return lsr;
}

static u8 read_msr(struct uart *u)
{
    u8 msr = u->msr;
    u->msr &= MSR_LINES;
    return msr;
}

static u8 read_at(struct uart *u, u64 off)
{
    bool dlab = u->lcr & LCR_DLAB;
    switch (off) {
    case 0:
        return dlab ? u->dll : read_rbr(u);
    case 1:
        return dlab ? u->dlm : u->ier;
    case 2:
        return read_iir(u);
    case 3:
        return u->lcr;
    case 4:
        return u->mcr;
    case 5:
        return read_lsr(u);
    case 6:
        return read_msr(u);
    default:
        return u->scr;
    }
}

static u64 read_reg(void *dev, u64 off, unsigned size)
{
    struct uart *u = dev;
    u8 val = read_at(u, off);
    update(u);
    offer_room(u);
    return val;
}

static const struct bus_ops reg_ops = {.read = read_reg, .write = write_reg, .max_size = 1};

int uart_attach(struct uart *u, struct bus *port, u16 base)
{
    return bus_add(port, base, 8, &reg_ops, u, "uart") < 0 ? -1 : 0;
}

void uart_reset(struct uart *u)
{
    timer_cancel(&u->timer);
    u->ier = 0;
    u->fcr = 0;
    u->lcr = 0;
    u->mcr = 0;
    u->lsr = 0;
    u->thre = 1;
    u->timeout = 0;
    u->rx_head = 0;
    u->rx_count = 0;
    u->dll = 1; /* MR leaves the divisor as it was; 115200 baud is a decent power-on value */
    u->dlm = 0;
    u->msr = modem_lines(u);
    update(u);
}

void uart_init(struct uart *u, struct clock *clock, struct uart_wires wires)
{
    *u = (struct uart){.wires = wires, .clock = clock};
    timer_init(&u->timer, clock, fire, u);
    uart_reset(u);
}

void uart_state(struct uart *u, struct state *s)
{
    state_section(s, "uart", 1);
    state_val(s, u->ier);
    state_val(s, u->fcr);
    state_val(s, u->lcr);
    state_val(s, u->mcr);
    state_val(s, u->lsr);
    state_val(s, u->msr);
    state_val(s, u->scr);
    state_val(s, u->dll);
    state_val(s, u->dlm);
    state_val(s, u->thre);
    state_val(s, u->timeout);
    state_val(s, u->refused);
    state_val(s, u->rx_head);
    state_val(s, u->rx_count);
    state_bytes(s, u->rx, sizeof(u->rx));
    if (!s->loading)
        return;
    if ((u->ier & 0xf0) || (u->fcr & 0x3e) || (u->mcr & 0xe0) || (u->lsr & ~LSR_ERRORS) ||
        u->rx_head >= UART_FIFO || u->rx_count > fifo_size(u))
        state_fail(s, "uart: a register is out of range");
    if (s->failed) {
        uart_reset(u);
        return;
    }
    u8 timed_out = u->timeout;
    restart_timeout(u);
    u->timeout = timed_out;
    update(u);
}
