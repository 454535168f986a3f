/*
 * start32.S - entry of 32-bit guests, trap stubs, and the way into a struct ctx (guest.h) and back.
 */
#define MAGIC 0x1badb002
#define FLAGS 0x10003 /* page-align modules, memory information, address fields */

        .section .head, "ax"
        .code32
header: .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .long   header, load_start, load_end, bss_end, start

        .globl  start
start:  cli
        cld
        mov     $host_stack + 16384, %esp
        push    %ebx
        call    guest_start
1:      hlt
        jmp     1b

/* --- traps: error code or 0, vector, registers, trap(frame) --- */

        .text
        .globl  trap_stubs
        .balign 16
trap_stubs:
        .set    vec, 0
        .rept   256
        .balign 16
        .if     vec != 8 && vec != 17 && (vec < 10 || vec > 14)
        push    $0
        .endif
        push    $vec
        jmp     common
        .set    vec, vec + 1
        .endr

common: pusha
        push    %ds
        push    %es
        push    %fs
        push    %gs
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        cld
        push    %esp
        call    trap
        add     $4, %esp
        pop     %gs
        pop     %fs
        pop     %es
        pop     %ds
        popa
        add     $8, %esp
        iret

/* --- void enter_guest(void): goes on as `current` says --- */

#define GPR(n) %cs:current + 4 * (n)
#define IP      GPR(8)
#define CS_     GPR(9)
#define FL      GPR(10)
#define SS_     GPR(11)
#define DS_     GPR(12)
#define ES_     GPR(13)
#define FS_     GPR(14)
#define GS_     GPR(15)

        .globl  enter_guest
enter_guest:
        push    %ebp
        push    %ebx
        push    %esi
        push    %edi
        pushf
        cli
        mov     %esp, host_sp
        testl   $0x20000, FL
        jnz     v86
        testl   $3, CS_
        jnz     outer
        mov     GPR(4), %eax
        mov     SS_, %ss
        mov     %eax, %esp
        jmp     segments
v86:    pushl   GS_
        pushl   FS_
        pushl   DS_
        pushl   ES_
        pushl   SS_
        pushl   GPR(4)
        jmp     frame
outer:  pushl   SS_
        pushl   GPR(4)
segments:
        mov     ES_, %es
        mov     FS_, %fs
        mov     GS_, %gs
        mov     DS_, %ds
frame:  pushl   FL
        pushl   CS_
        pushl   IP
        mov     GPR(0), %eax
        mov     GPR(1), %ecx
        mov     GPR(2), %edx
        mov     GPR(3), %ebx
        mov     GPR(5), %ebp
        mov     GPR(6), %esi
        mov     GPR(7), %edi
        iret

/* --- void leave_guest(void): returns from enter_guest() --- */

        .globl  leave_guest
leave_guest:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %cs:host_sp, %esp
        mov     %eax, %fs
        mov     %eax, %gs
        popf
        pop     %edi
        pop     %esi
        pop     %ebx
        pop     %ebp
        ret

        .bss
        .balign 16
        .globl  host_sp
host_sp: .long  0
        .balign 16
host_stack: .skip 16384
        .section .note.GNU-stack, "", @progbits
