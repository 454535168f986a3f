/*
 * Tiny guests for test_machine.c: each is a flat multiboot 1 kernel, loaded at 1 MiB and entered in
 * 32-bit protected mode with paging off. They speak through COM1 and leave through port 0xf4.
 *
 * AT(label) is the address that a label has in the guest.
 */
        .section .rodata, "a"
        .code32

#define LOAD    0x100000
#define SIZE    0x1000
#define STACK   0x180000
#define EXIT    0xf4
#define COM1    0x3f8

.macro GUEST name
        .balign 4096
        .globl guest_\name
guest_\name:
        .set base, guest_\name
        .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long LOAD, LOAD, LOAD + SIZE, LOAD + SIZE + 0x1000, LOAD + 32
        mov     $STACK, %esp
.endm
#define AT(label) ((label) - base + LOAD)

/* Ends the machine with status v * 2 + 1. */
.macro LEAVE v
        mov     $\v, %eax
        mov     $EXIT, %dx
        out     %eax, %dx
1:      hlt
        jmp     1b
.endm

/* Sends a character. */
.macro SEND c
        mov     $COM1, %dx
        mov     $\c, %al
        out     %al, %dx
.endm

/* Waits for a character on COM1, by polling, into AL. */
.macro RECEIVE
2:      mov     $COM1 + 5, %dx
        in      %dx, %al
        test    $1, %al
        jz      2b
        mov     $COM1, %dx
        in      %dx, %al
.endm

/* Loads a GDT and flat segments of our own: the boot loader's need not last. */
.macro SEGMENTS gdtr
        lgdt    AT(\gdtr)
        ljmp    $8, $AT(3f)
3:      mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
.endm

.macro GDT name
        .balign 8
gdt_\name:
        .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr_\name:
        .word   23
        .long   AT(gdt_\name)
.endm

/* 8259 pair: vectors 0x20 and 0x28, edge-triggered, everything masked but `unmasked` of the master. */
.macro PIC unmasked
        mov     $0x11, %al
        out     %al, $0x20
        out     %al, $0xa0
        mov     $0x20, %al
        out     %al, $0x21
        mov     $0x28, %al
        out     %al, $0xa1
        mov     $4, %al
        out     %al, $0x21
        mov     $2, %al
        out     %al, $0xa1
        mov     $1, %al
        out     %al, $0x21
        out     %al, $0xa1
        mov     $0xff & ~(\unmasked), %al
        out     %al, $0x21
        mov     $0xff, %al
        out     %al, $0xa1
.endm

/* Points the IDT's gate `vec` (0x20..0x27) at handler; the IDT lies at LOAD + SIZE. */
#define IDT (LOAD + SIZE)
.macro GATE vec, handler
        mov     $AT(\handler), %eax
        mov     %ax, IDT + \vec * 8
        movw    $8, IDT + \vec * 8 + 2
        movw    $0x8e00, IDT + \vec * 8 + 4
        shr     $16, %eax
        mov     %ax, IDT + \vec * 8 + 6
.endm

/* Counter 0 of the 8254, mode 0: OUT rises once, `count` ticks of 1193182 Hz from now. */
.macro PIT_ONCE count
        mov     $0x30, %al
        out     %al, $0x43
        mov     $(\count) & 0xff, %al
        out     %al, $0x40
        mov     $(\count) >> 8, %al
        out     %al, $0x40
.endm

/* --- says hello, leaves with 21 * 2 + 1 --- */
GUEST hello
        mov     $AT(hello_text), %esi
4:      lodsb
        test    %al, %al
        jz      5f
        mov     $COM1, %dx
        out     %al, %dx
        jmp     4b
5:      LEAVE   21
hello_text:
        .asciz  "hello, world\n"

/* --- sends back what it receives, plus one; leaves at 'q' --- */
GUEST echo
6:      RECEIVE
        cmp     $'q', %al
        je      7f
        inc     %al
        mov     $COM1, %dx
        out     %al, %dx
        jmp     6b
7:      LEAVE   1

/* --- switches itself off by ACPI: SLP_TYP 5, SLP_EN --- */
GUEST poweroff
        mov     $0x604, %dx
        mov     $(5 << 10) | (1 << 13), %ax
        out     %ax, %dx
8:      hlt
        jmp     8b

/* --- counts its boots in CMOS RAM, resets twice, leaves with the count --- */
GUEST reset
        mov     $0x50, %al
        out     %al, $0x70
        in      $0x71, %al
        inc     %al
        mov     %al, %bl
        out     %al, $0x71
        cmp     $3, %bl
        je      9f
        mov     $0xcf9, %dx
        mov     $6, %al
        out     %al, %dx
8:      hlt
        jmp     8b
9:      movzbl  %bl, %eax
        mov     $EXIT, %dx
        out     %eax, %dx
8:      hlt
        jmp     8b

/* --- triple fault: no IDT, then UD2, which guest_triple_at names --- */
GUEST triple
        lidt    AT(triple_idt)
        .globl guest_triple_at
guest_triple_at:
        ud2
triple_idt:
        .word   0
        .long   0

/* --- runs for ever, and writes what it counts to 2 MiB --- */
GUEST spin
        mov     $0x12345678, %ebx
        SEND    's'
8:      incl    0x200000
        jmp     8b

/*
 * --- looks at the TSC and the PM timer until it receives a character, and leaves with 1 if either
 * ever jumped by more than the limits that the test wrote to 2 MiB, else with 2 ---
 */
GUEST jump
        SEND    'j'
        rdtsc
        mov     %eax, %esi
        mov     $0x608, %dx
        in      %dx, %eax
        mov     %eax, %edi
        xor     %ebp, %ebp
8:      rdtsc
        mov     %eax, %ecx
        sub     %esi, %eax
        mov     %ecx, %esi
        cmp     0x200000, %eax
        jbe     9f
        inc     %ebp
9:      mov     $0x608, %dx
        in      %dx, %eax
        mov     %eax, %ecx
        sub     %edi, %eax
        mov     %ecx, %edi
        cmp     0x200004, %eax
        jbe     9f
        inc     %ebp
9:      mov     $COM1 + 5, %dx
        in      %dx, %al
        test    $1, %al
        jz      8b
        test    %ebp, %ebp
        jnz     9f
        LEAVE   2
9:      LEAVE   1

/* --- halts until the timer interrupt comes, ten times; leaves with 3 --- */
GUEST halt
        SEGMENTS gdtr_halt
        lidt    AT(halt_idtr)
        GATE    0x20, halt_tick
        PIC     1
        xor     %ebx, %ebx
7:      PIT_ONCE 1193
        sti
        hlt
        cli
        cmp     $10, %ebx
        jne     7b
        LEAVE   3
halt_tick:
        push    %eax
        inc     %ebx
        mov     $0x20, %al
        out     %al, $0x20
        pop     %eax
        iret
GDT     halt
halt_idtr:
        .word   0x7ff
        .long   IDT

/*
 * --- the classic: with IF clear, two interrupts arrive (timer: IRQ 0, COM1: IRQ 4). They must wait,
 * and come in order of priority, once each, when IF is set. Says 'm' when both are pending and
 * nothing has been delivered, waits (IF still clear) for a word at 2 MiB.
 * EDI collects the order: the handlers shift in 1 (timer) and 4 (COM1). Leaves with EDI: 0x14. ---
 */
GUEST masked
        SEGMENTS gdtr_masked
        lidt    AT(masked_idtr)
        GATE    0x20, masked_tick
        GATE    0x24, masked_com
        PIC     0x11
        xor     %edi, %edi
        mov     $COM1 + 4, %dx          /* OUT2: the UART's interrupt reaches the PIC */
        mov     $8, %al
        out     %al, %dx
        mov     $COM1 + 1, %dx          /* interrupt when a character has come */
        mov     $1, %al
        out     %al, %dx
        SEND    'r'                     /* ready: the test sends a character now */
        mov     $0x0a, %al              /* OCW3: read the IRR */
        out     %al, $0x20
7:      in      $0x20, %al
        test    $0x10, %al
        jz      7b
        PIT_ONCE 100
7:      in      $0x20, %al
        and     $0x11, %al
        cmp     $0x11, %al
        jne     7b
        test    %edi, %edi              /* nothing may have come yet */
        jnz     9f
        SEND    'm'
        /* Hold on until the test, having seen another machine get its interrupt, says so at 2 MiB. */
7:      cmpl    $0, 0x200000
        je      7b
        test    %edi, %edi
        jnz     9f
        sti
        nop
        nop
        nop
        nop
        cli
        mov     %edi, %eax
        mov     $EXIT, %dx
        out     %eax, %dx
7:      hlt
        jmp     7b
9:      LEAVE   0x7f
masked_tick:
        push    %eax
        shl     $4, %edi
        or      $1, %edi
        mov     $0x20, %al
        out     %al, $0x20
        pop     %eax
        iret
masked_com:
        push    %eax
        push    %edx
        mov     $COM1, %dx
        in      %dx, %al
        shl     $4, %edi
        or      $4, %edi
        mov     $0x20, %al
        out     %al, $0x20
        pop     %edx
        pop     %eax
        iret
GDT     masked
masked_idtr:
        .word   0x7ff
        .long   IDT

/* --- starts CPU 1 by INIT and SIPI; it adds, LOCKed, to what CPU 0 adds to; leaves with 4 --- */
GUEST smp
        mov     $AT(smp_ap), %esi       /* real-mode code goes to 0x8000 */
        mov     $0x8000, %edi
        mov     $smp_ap_end - smp_ap, %ecx
        rep movsb
        mov     $0xfee00000, %ebx
        movl    $0x1ff, 0xf0(%ebx)      /* spurious vector, APIC on */
        movl    $0x01000000, 0x310(%ebx)
        movl    $0x4500, 0x300(%ebx)    /* INIT */
        movl    $0x01000000, 0x310(%ebx)
        movl    $0x4608, 0x300(%ebx)    /* SIPI to 0x8000 */
        mov     $100000, %ecx
7:      lock incl 0x9000
        loop    7b
7:      cmpl    $200000, 0x9000
        jne     7b
        LEAVE   4
        .code16
smp_ap:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     $100000, %ecx
7:      lock incl 0x9000
        addr32 loop 7b
7:      cli
        hlt
        jmp     7b
smp_ap_end:
        .code32
        .balign 4096

        .section .note.GNU-stack, "", @progbits
