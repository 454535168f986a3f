/*
 * start64.S - entry of 64-bit guests: to long mode with the first 4 GiB mapped to themselves in 2 MiB
 * pages that user code may use too; trap stubs; the way into a struct ctx (guest.h) and back.
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
        mov     %ebx, %ebp

        /* Four page directories: address | P, W, U, A, D, PS. */
        mov     $boot_pd, %edi
        mov     $0xe7, %eax
1:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x200000, %eax
        jnc     1b
        mov     $boot_pdpt, %edi
        mov     $boot_pd + 7, %eax
        mov     $4, %ecx
2:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x1000, %eax
        loop    2b
        movl    $boot_pdpt + 7, boot_pml4

        call    enter_long
        mov     %ebp, %edi
        mov     $0x10, %eax
        mov     %eax, %ss
        .code64
        call    guest_start
3:      hlt
        jmp     3b
        .code32

/* From 32-bit protected mode, flat, to 64-bit mode with boot_pml4: returns there, stack kept. Also
 * what application processors use. */
        .globl  enter_long
enter_long:
        mov     $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $boot_pml4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x900, %eax            /* LME, NXE */
        wrmsr
        mov     $0x80000033, %eax       /* PG, NE, ET, MP, PE */
        mov     %eax, %cr0
        lgdt    boot_gdtr
        pop     %eax
        pushl   $8
        push    %eax
        lret                            /* the return address, in 64-bit code */

        .balign 8
boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
        .globl  boot_gdtr
boot_gdtr: .word 23
        .long   boot_gdt, 0

/* --- traps: error code or 0, vector, registers, trap(frame) --- */

        .text
        .code64
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

common: push    %rax
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rsp
        push    %rbp
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        mov     %rsp, %rbp
        and     $-16, %rsp
        call    trap
        mov     %rbp, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx                    /* RSP */
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

/* --- void enter_guest(void): goes on as `current` says --- */

#define GPR(n) current + 8 * (n)

        .globl  enter_guest
enter_guest:
        push    %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        pushf
        cli
        mov     %rsp, host_sp
        mov     GPR(20), %ds
        mov     GPR(21), %es
        pushq   GPR(19)
        pushq   GPR(4)
        pushq   GPR(18)
        pushq   GPR(17)
        pushq   GPR(16)
        mov     GPR(0), %rax
        mov     GPR(1), %rcx
        mov     GPR(2), %rdx
        mov     GPR(3), %rbx
        mov     GPR(5), %rbp
        mov     GPR(6), %rsi
        mov     GPR(7), %rdi
        mov     GPR(8), %r8
        mov     GPR(9), %r9
        mov     GPR(10), %r10
        mov     GPR(11), %r11
        mov     GPR(12), %r12
        mov     GPR(13), %r13
        mov     GPR(14), %r14
        mov     GPR(15), %r15
        iretq

/* --- void leave_guest(void): returns from enter_guest() --- */

        .globl  leave_guest
leave_guest:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     host_sp, %rsp
        popf
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        ret

        .bss
        .balign 4096
        .globl  boot_pml4, boot_pdpt, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip  4096 * 4
        .globl  host_sp
host_sp: .quad  0
        .balign 16
host_stack: .skip 16384
        .section .note.GNU-stack, "", @progbits
