/*
 * Where a freestanding program begins. The kernel leaves argc, argv and the environment on the
 * stack; none is used.
 */
        .text
        .globl  _start
_start:
#ifdef __i386__
        xorl    %ebp, %ebp
        andl    $-16, %esp
#else
        xorl    %ebp, %ebp
        andq    $-16, %rsp
#endif
        call    agent_main
        ud2
        .section .note.GNU-stack, "", @progbits
