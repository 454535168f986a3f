/*
 * bios.S - the real-mode services that a kernel asks for when it is entered in real mode, and what
 * interrupt handlers firmware leaves behind: a few hundred bytes at F000:0000.
 *
 * Not a firmware: there is no POST, no option ROM, no disk and no screen; teletype output goes to
 * COM1. The loader (bios.c) copies this image to 0xf0000, fills in the e820 map and points the
 * interrupt vectors here. Everything is addressed relative to bios_image, so nothing is relocated.
 *
 * Handlers return flags to their caller in the FLAGS word that INT pushed, at [bp+6] after
 * `push %bp; mov %sp, %bp`.
 */
        .section .rodata
        .code16
        .globl bios_image, bios_image_end, bios_vectors, bios_e820
        .balign 16

#define OFF(label) (label - bios_image)

bios_image:

/* --- returning --- */

done_cf0:                       /* success: CF = 0 */
        push    %bp
        mov     %sp, %bp
        andw    $~1, 6(%bp)
        pop     %bp
        iret
done_cf1:                       /* failure: CF = 1 */
        push    %bp
        mov     %sp, %bp
        orw     $1, 6(%bp)
        pop     %bp
        iret
unsupported:                    /* CF = 1, AH = 86h: no such function */
        mov     $0x86, %ah
        jmp     done_cf1
nothing:
        iret

/* --- hardware interrupts --- */

irq0:                           /* counts ticks at 40:6C, calls INT 1C */
        push    %ds
        push    %ax
        mov     $0x40, %ax
        mov     %ax, %ds
        incl    0x6c
        int     $0x1c
        mov     $0x20, %al
        out     %al, $0x20
        pop     %ax
        pop     %ds
        iret
irq_slave:
        push    %ax
        mov     $0x20, %al
        out     %al, $0xa0
        out     %al, $0x20
        pop     %ax
        iret
irq_master:
        push    %ax
        mov     $0x20, %al
        out     %al, $0x20
        pop     %ax
        iret

/* --- INT 10h: video --- */

int10:
        cmp     $0x0e, %ah
        je      teletype
        cmp     $0x0f, %ah
        je      get_mode
        cmp     $0x03, %ah
        je      get_cursor
        iret                    /* all else: no such adapter, registers unchanged */
get_mode:
        mov     $0x5003, %ax    /* 80 columns, mode 3 */
        mov     $0, %bh
        iret
get_cursor:
        xor     %cx, %cx
        xor     %dx, %dx
        iret
teletype:
        push    %dx
        push    %ax
        mov     $0x3fd, %dx     /* LSR */
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        pop     %ax
        mov     $0x3f8, %dx
        out     %al, %dx
        pop     %dx
        iret

/* --- INT 11h, 12h, 13h, 14h, 17h: equipment, memory, disks, ports --- */

int11:
        mov     $0x0202, %ax    /* FPU, one serial port */
        iret
int12:
        mov     $639, %ax       /* KiB */
        iret
int13:
        mov     $0x01, %ah      /* invalid function */
        jmp     done_cf1
int14:
int17:
        mov     $0x80, %ah      /* time-out */
        iret

/* --- INT 15h: memory map, A20 --- */

int15:
        cmp     $0xe820, %ax
        je      e820
        cmp     $0xe801, %ax
        je      e801
        cmp     $0x88, %ah
        je      ext_memory
        cmp     $0x24, %ah
        je      a20
        cmp     $0xec00, %ax    /* "the mode I shall run in" */
        je      done_cf0
        cmp     $0x86, %ah      /* wait: time is cheap here */
        je      done_cf0
        jmp     unsupported
a20:    cmp     $0x02, %al      /* status */
        jne     1f
        mov     $1, %al
1:      mov     $0, %ah
        jmp     done_cf0

/* EBX = index; ECX bytes to ES:DI; EDX = 'SMAP'. ACPI specification 6.4, 15.1. */
e820:
        cmp     $0x534d4150, %edx
        jne     unsupported
        cmp     %cs:OFF(bios_e820), %ebx
        jae     unsupported
        push    %ds
        push    %si
        push    %di
        push    %cs
        pop     %ds
        imul    $20, %bx, %si
        add     $OFF(bios_e820) + 4, %si
        mov     $20, %cx
        cld
        rep movsb
        pop     %di
        pop     %si
        pop     %ds
        mov     $20, %ecx
        inc     %ebx
        cmp     %cs:OFF(bios_e820), %ebx
        jb      1f
        xor     %ebx, %ebx      /* that was the last */
1:      mov     %edx, %eax
        jmp     done_cf0

/* KiB from 1 to 16 MiB, then units of 64 KiB: from the map's entry for RAM at 1 MiB. */
e801:
        call    high_kib        /* EAX */
        mov     $0x3c00, %cx
        cmp     $0x3c00, %eax
        jbe     1f
        sub     $0x3c00, %eax
        shr     $6, %eax
        mov     %ax, %dx
        jmp     2f
1:      mov     %ax, %cx
        xor     %dx, %dx
2:      mov     %cx, %ax
        mov     %dx, %bx
        jmp     done_cf0
ext_memory:
        call    high_kib
        cmp     $0xffff, %eax
        jbe     1f
        mov     $0xffff, %ax
1:      jmp     done_cf0

high_kib:
        push    %si
        push    %cx
        mov     $OFF(bios_e820) + 4, %si
        mov     %cs:OFF(bios_e820), %cx
1:      cmpl    $0x100000, %cs:(%si)
        je      2f
        add     $20, %si
        loop    1b
        xor     %eax, %eax
        jmp     3f
2:      mov     %cs:8(%si), %eax
        shr     $10, %eax
3:      pop     %cx
        pop     %si
        ret

/* --- INT 16h: keyboard (there is none) --- */

int16:
        test    $0x01, %ah
        jz      1f
        cmp     $0x03, %ah      /* typematic rate */
        je      nothing
        push    %bp             /* no key waiting: ZF = 1 */
        mov     %sp, %bp
        orw     $0x40, 6(%bp)
        pop     %bp
        iret
1:      xor     %ax, %ax
        iret

/* --- INT 1Ah: time of day --- */

int1a:
        cmp     $0x00, %ah
        jne     unsupported
        push    %ds
        mov     $0x40, %dx
        mov     %dx, %ds
        mov     0x6e, %cx
        mov     0x6c, %dx
        pop     %ds
        mov     $0, %al
        iret

/* --- INT 18h, 19h: boot --- */

int19:
        push    %cs
        pop     %ds
        mov     $OFF(no_boot), %si
        cld
1:      lodsb
        test    %al, %al
        jz      2f
        mov     $0x0e, %ah
        int     $0x10
        jmp     1b
2:      sti
        hlt
        jmp     2b
no_boot:
        .asciz  "popf: there is no boot device\r\n"

/* --- what the loader reads and fills in --- */

        .balign 4
/* Vector, offset; ends with vector FFFFh. All others point to `nothing`: the first row. */
bios_vectors:
        .short  0x100, OFF(nothing)
        .short  0x08, OFF(irq0)
        .short  0x09, OFF(irq_master), 0x0a, OFF(irq_master), 0x0b, OFF(irq_master)
        .short  0x0c, OFF(irq_master), 0x0d, OFF(irq_master), 0x0e, OFF(irq_master)
        .short  0x0f, OFF(irq_master)
        .short  0x10, OFF(int10), 0x11, OFF(int11), 0x12, OFF(int12), 0x13, OFF(int13)
        .short  0x14, OFF(int14), 0x15, OFF(int15), 0x16, OFF(int16), 0x17, OFF(int17)
        .short  0x18, OFF(int19), 0x19, OFF(int19), 0x1a, OFF(int1a)
        .short  0x70, OFF(irq_slave), 0x71, OFF(irq_slave), 0x72, OFF(irq_slave)
        .short  0x73, OFF(irq_slave), 0x74, OFF(irq_slave), 0x75, OFF(irq_slave)
        .short  0x76, OFF(irq_slave), 0x77, OFF(irq_slave)
        .short  0xffff
        .balign 4
/* Count, then up to 32 (MAP_MAX in bios.c) entries of 20 bytes: base, length (64 bits each), type. */
bios_e820:
        .fill   4 + 32 * 20, 1, 0
bios_image_end:
        .section .note.GNU-stack, "", @progbits
