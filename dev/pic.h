/*
 * pic.h - the pair of 8259A interrupt controllers of a PC, with the ELCR of the EISA chip sets.
 *
 * Source: Intel 8259A data sheet (231468); ELCR: Intel 82371SB (PIIX3) 2.5.4.
 * Ports: 0x20-0x21 master, 0xa0-0xa1 slave, 0x4d0-0x4d1 ELCR.
 *
 * A chip that has not had its ICWs since the reset passes nothing on: without firmware its vectors
 * would be those of exceptions.
 */
#ifndef POPF_PIC_H
#define POPF_PIC_H

#include "base/state.h"
#include "dev/irq.h"
#include "mem/bus.h"

#define PIC_CASCADE 2 /* the master's input to which the slave's INT is wired */

struct pic {
    struct pic_pair *pair;
    bool master;
    u8 elcr_mask; /* inputs that may be made level-triggered */

    u8 level; /* the wires, as they are now */
    u8 irr;
    u8 imr;
    u8 isr;
    u8 elcr;   /* 1: level-triggered */
    u8 icw1;   /* bits 0 (IC4) and 1 (SNGL) steer the initialisation */
    u8 base;   /* ICW2: vector of input 0, a multiple of 8 */
    u8 icw3;   /* kept; the wiring is fixed */
    u8 icw4;   /* bit 1 AEOI, bit 4 special fully nested */
    u8 expect; /* the ICW that is due at A0=1: 2, 3, 4; 0: operating; 1: waits for ICW1 */
    u8 top;    /* the input with the highest priority; rotation changes it */
    u8 smm;    /* special mask mode */
    u8 rotate; /* rotate in AEOI mode */
    u8 poll;   /* the next read is an acknowledge */
    u8 ris;    /* reads at A0=0 give the ISR instead of the IRR */
};

struct pic_pair {
    struct pic chip[2]; /* 0 master, 1 slave */
    struct irq intr;    /* INTR: to the CPU or the LAPIC's LINT0 */
};

void pic_init(struct pic_pair *p, struct irq intr);

/* Power-on: as pic_init(), except that the wires keep their level. */
void pic_reset(struct pic_pair *p);

/* Claims the six ports. 0, or -1 if the bus is full. */
int pic_attach(struct pic_pair *p, struct bus *port);

/* An input wire (struct irq.set): `pair` is the struct pic_pair, pin 0-15. Pin 2 is not a wire. */
void pic_set(void *pair, unsigned pin, int level);

/* True while INTR is asserted. */
bool pic_pending(const struct pic_pair *p);

/*
 * INTA: the vector, 0-255, of the request served. Without a request it is the spurious one: input 7
 * of the master or, if the slave's request has gone away, of the slave; no ISR bit is then set in
 * the chip that had none.
 */
int pic_ack(struct pic_pair *p);

void pic_state(struct pic_pair *p, struct state *s);

#endif
