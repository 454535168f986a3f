/* bare_enter.S - from the host's registers to the sequence's, and back. */
#include "bare_io.h"

        .text
        .globl bare_enter, bare_exit
        .type bare_enter, @function

/* void bare_enter(struct bare_io *io): returns when the sequence has arrived at bare_exit. */
bare_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, IO_HOST_RSP(%rdi)
        xor     %eax, %eax
        mov     %ds, %eax
        mov     %rax, IO_HOST_DS(%rdi)
        mov     %es, %eax
        mov     %rax, IO_HOST_ES(%rdi)
        mov     %fs, %eax
        mov     %rax, IO_HOST_FS(%rdi)
        mov     %gs, %eax
        mov     %rax, IO_HOST_GS(%rdi)
        mov     IO_FPU_IN(%rdi), %rcx
        test    %rcx, %rcx
        jz      1f
        mov     IO_XCR0(%rdi), %eax
        mov     IO_XCR0+4(%rdi), %edx
        xrstor64 (%rcx)
1:      cmpl    $0, IO_HAS_FSGS(%rdi)
        je      2f
        rdfsbase %rax
        mov     %rax, IO_HOST_FSB(%rdi)
        rdgsbase %rax
        mov     %rax, IO_HOST_GSB(%rdi)
        mov     IO_FS(%rdi), %eax
        mov     %eax, %fs
        test    %eax, %eax
        jnz     3f
        mov     IO_FS_BASE(%rdi), %rax
        wrfsbase %rax
3:      mov     IO_GS(%rdi), %eax
        mov     %eax, %gs
        test    %eax, %eax
        jnz     2f
        mov     IO_GS_BASE(%rdi), %rax
        wrgsbase %rax
2:      mov     IO_DS(%rdi), %eax
        mov     %eax, %ds
        mov     IO_ES(%rdi), %eax
        mov     %eax, %es
        pushq   IO_SS(%rdi)
        pushq   IO_REG+32(%rdi)
        pushq   IO_RFLAGS(%rdi)
        pushq   IO_CS(%rdi)
        pushq   IO_RIP(%rdi)
        mov     IO_REG(%rdi), %rax
        mov     IO_REG+8(%rdi), %rcx
        mov     IO_REG+16(%rdi), %rdx
        mov     IO_REG+24(%rdi), %rbx
        mov     IO_REG+40(%rdi), %rbp
        mov     IO_REG+48(%rdi), %rsi
        mov     IO_REG+64(%rdi), %r8
        mov     IO_REG+72(%rdi), %r9
        mov     IO_REG+80(%rdi), %r10
        mov     IO_REG+88(%rdi), %r11
        mov     IO_REG+96(%rdi), %r12
        mov     IO_REG+104(%rdi), %r13
        mov     IO_REG+112(%rdi), %r14
        mov     IO_REG+120(%rdi), %r15
        movl    $1, IO_ACTIVE(%rdi)
        mov     IO_REG+56(%rdi), %rdi
        iretq

/* Reached from EXIT, which has saved RAX and put the address of struct bare_io into it. */
bare_exit:
        movl    $0, IO_ACTIVE(%rax)
        mov     %rcx, IO_REG+8(%rax)
        mov     %rdx, IO_REG+16(%rax)
        mov     %rbx, IO_REG+24(%rax)
        mov     %rsp, IO_REG+32(%rax)
        mov     %rbp, IO_REG+40(%rax)
        mov     %rsi, IO_REG+48(%rax)
        mov     %rdi, IO_REG+56(%rax)
        mov     %r8, IO_REG+64(%rax)
        mov     %r9, IO_REG+72(%rax)
        mov     %r10, IO_REG+80(%rax)
        mov     %r11, IO_REG+88(%rax)
        mov     %r12, IO_REG+96(%rax)
        mov     %r13, IO_REG+104(%rax)
        mov     %r14, IO_REG+112(%rax)
        mov     %r15, IO_REG+120(%rax)
        mov     %rax, %rdi
        mov     IO_HOST_RSP(%rdi), %rsp
        pushfq
        popq    IO_RFLAGS(%rdi)
        pushq   $0x202
        popfq
        mov     %ds, %eax
        mov     %rax, IO_DS(%rdi)
        mov     %es, %eax
        mov     %rax, IO_ES(%rdi)
        mov     %fs, %eax
        mov     %rax, IO_FS(%rdi)
        mov     %gs, %eax
        mov     %rax, IO_GS(%rdi)
        mov     %ss, %eax
        mov     %rax, IO_SS(%rdi)
        mov     IO_HOST_DS(%rdi), %eax
        mov     %eax, %ds
        mov     IO_HOST_ES(%rdi), %eax
        mov     %eax, %es
        cmpl    $0, IO_HAS_FSGS(%rdi)
        je      1f
        rdfsbase %rax
        mov     %rax, IO_FS_BASE(%rdi)
        rdgsbase %rax
        mov     %rax, IO_GS_BASE(%rdi)
        mov     IO_HOST_FS(%rdi), %eax
        mov     %eax, %fs
        mov     IO_HOST_FSB(%rdi), %rax
        wrfsbase %rax
        mov     IO_HOST_GS(%rdi), %eax
        mov     %eax, %gs
        mov     IO_HOST_GSB(%rdi), %rax
        wrgsbase %rax
1:      mov     IO_FPU_OUT(%rdi), %rcx
        test    %rcx, %rcx
        jz      2f
        mov     IO_XCR0(%rdi), %eax
        mov     IO_XCR0+4(%rdi), %edx
        xsave64 (%rcx)
2:      fninit
        pushq   $0x1f80
        ldmxcsr (%rsp)
        pop     %rax
        cmpl    $0, IO_HAS_AVX(%rdi)
        je      3f
        vzeroupper
3:      pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size bare_enter, .-bare_enter

        .section .note.GNU-stack, "", @progbits
