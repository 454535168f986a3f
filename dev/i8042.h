/*
 * i8042.h - the keyboard controller of a PC with an AT keyboard behind it, and no mouse.
 *
 * Source: IBM PS/2 hardware interface technical reference, keyboard/auxiliary device controller.
 * Ports: 0x60 (data), 0x64 (status, command).
 */
#ifndef POPF_I8042_H
#define POPF_I8042_H

#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define I8042_QUEUE 32

struct i8042_wires {
    void (*reset)(void *arg);        /* the CPU's reset line was pulsed; may be NULL */
    void (*a20)(void *arg, bool on); /* the output port's A20 bit was written; may be NULL */
    void *arg;
    struct irq irq1;
};

struct i8042 {
    u8 ram[32];  /* byte 0 is the command byte */
    u8 status;   /* as port 0x64 shows it */
    u8 obuf;     /* the output buffer, full while status bit 0 is set */
    u8 answer;   /* what it holds is a reply of the controller */
    u8 reply;    /* a reply of the controller waiting for the output buffer... */
    u8 replying; /* ...if this is set */
    u8 outport;  /* bits 0 (reset, active low) and 1 (A20) */
    u8 command;  /* takes the next byte written to port 0x60; 0: the keyboard does */
    /* the keyboard */
    u8 kbd_command; /* takes the next byte as its parameter; 0: none */
    u8 scanning;
    u8 set; /* scan code set, 1-3 */
    u8 leds;
    u8 last;     /* for Resend */
    u8 breaking; /* translation: the prefix F0 was swallowed */
    u8 head, count;
    u8 queue[I8042_QUEUE];
    struct i8042_wires wires;
};

void i8042_init(struct i8042 *k, struct i8042_wires wires);
void i8042_reset(struct i8042 *k);

/* 0, or -1 if the bus is full. */
int i8042_attach(struct i8042 *k, struct bus *port);

/*
 * A byte of a scan code of set 2, as the keyboard sends it (a release is F0 and the code). Lost
 * while the guest has scanning disabled, or when the keyboard's buffer is full.
 */
void i8042_key(struct i8042 *k, u8 scancode);

void i8042_state(struct i8042 *k, struct state *s);

#endif
