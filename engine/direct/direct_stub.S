/*
 * direct_stub.S - what a space's process runs for us: system calls from a list.
 */
        .section .rodata
        .globl  direct_stub, direct_stub_end

/* RBX = struct command (direct_priv.h), RBP = end of the list. */
direct_stub:
        cmp     %rbp, %rbx
        jae     2f
        mov     (%rbx), %rax
        mov     8(%rbx), %rdi
        mov     16(%rbx), %rsi
        mov     24(%rbx), %rdx
        mov     32(%rbx), %r10
        mov     40(%rbx), %r8
        mov     48(%rbx), %r9
        syscall
        mov     %rax, (%rbx)
        add     $56, %rbx
        jmp     direct_stub
2:      int3
direct_stub_end:

        .section .note.GNU-stack, "", @progbits
