/*
 * uart.h - a 16550A.
 *
 * Source: National Semiconductor PC16550D data sheet. Eight ports from a base that the machine
 * chooses. What is written is sent at once, whatever the baud rate; the interrupts are the chip's.
 */
#ifndef POPF_UART_H
#define POPF_UART_H

#include "base/clock.h"
#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define UART_FIFO 16

struct uart_wires {
    void (*tx)(void *arg, const u8 *buf, size_t n); /* bytes sent; may be NULL */
    void (*room)(void *arg); /* uart_rx() would now take more of what it refused; may be NULL */
    void *arg;
    struct irq irq; /* INTR behind the OUT2 gate */
};

struct uart {
    u8 ier;
    u8 fcr; /* bit 0 and the trigger level */
    u8 lcr;
    u8 mcr;
    u8 lsr; /* bits 1-4 only: the others are computed */
    u8 msr;
    u8 scr;
    u8 dll, dlm;
    u8 thre;    /* THRE interrupt pending */
    u8 timeout; /* character timeout interrupt pending */
    u8 refused; /* uart_rx() could not take all */
    u8 rx_head;
    u8 rx_count;
    u8 rx[UART_FIFO];
    struct uart_wires wires;
    struct timer timer;
    struct clock *clock;
};

void uart_init(struct uart *u, struct clock *clock, struct uart_wires wires);
void uart_reset(struct uart *u);

/* Claims [base, base+8). 0, or -1 if the bus is full. */
int uart_attach(struct uart *u, struct bus *port, u16 base);

/* Bytes arrive from outside; returns how many fitted. Nothing is ever overrun. */
size_t uart_rx(struct uart *u, const u8 *buf, size_t n);

/* How many bytes uart_rx() would take: none in loopback mode. */
size_t uart_rx_room(const struct uart *u);

/* A break condition arrives (a zero with LSR.BI). */
void uart_rx_break(struct uart *u);

void uart_state(struct uart *u, struct state *s);

#endif
