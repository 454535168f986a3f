/*
 * direct_stub.S - what a space's process runs for us: system calls from a list. The guest's
 * registers and flags are kept, and it goes on with guest code, or stops at direct_stub_trap, if
 * the frame says so or a call has failed.
 */
#include "engine/direct/direct_stub.h"

#define DATA(at) direct_stub + (at)(%rip)
#define SAVED(n) DATA(STUB_SAVED + 8 * (n))
#define FRAME(n) DATA(STUB_FRAME + 8 * (n))

        .section .rodata
        .globl  direct_stub, direct_stub_trap, direct_stub_end

direct_stub:
        mov     %rax, SAVED(0)
        mov     %rcx, SAVED(1)
        mov     %rdx, SAVED(2)
        mov     %rbx, SAVED(3)
        mov     %rbp, SAVED(4)
        mov     %rsi, SAVED(5)
        mov     %rdi, SAVED(6)
        mov     %r8, SAVED(7)
        mov     %r9, SAVED(8)
        mov     %r10, SAVED(9)
        mov     %r11, SAVED(10)
        mov     %rsp, FRAME(3)
        lea     FRAME(3), %rsp
        pushfq
        lea     SAVED(12), %rsp /* a POPF that was not seen may have set NT: no IRETQ then */
        push    $2
        popfq
        lea     DATA(STUB_DATA), %rbx
        mov     DATA(STUB_END), %rbp
1:      cmp     %rbp, %rbx
        jae     4f
        mov     (%rbx), %rax
        mov     8(%rbx), %rdi
        mov     16(%rbx), %rsi
        mov     24(%rbx), %rdx
        mov     32(%rbx), %r10
        mov     40(%rbx), %r8
        mov     48(%rbx), %r9
        movq    $0, 32(%rbx) /* they have the key */
        movq    $0, 40(%rbx)
        syscall
        mov     %rax, (%rbx)
        cmp     $-4095, %rax
        jae     3f
2:      add     $STUB_COMMAND, %rbx
        jmp     1b
3:      lea     direct_stub_trap(%rip), %rax
        mov     %rax, FRAME(0)
        movq    $HOST_CS64, FRAME(1)
        jmp     2b
4:      mov     SAVED(0), %rax
        mov     SAVED(1), %rcx
        mov     SAVED(2), %rdx
        mov     SAVED(3), %rbx
        mov     SAVED(4), %rbp
        mov     SAVED(5), %rsi
        mov     SAVED(6), %rdi
        mov     SAVED(7), %r8
        mov     SAVED(8), %r9
        mov     SAVED(9), %r10
        mov     SAVED(10), %r11
        lea     FRAME(0), %rsp
        iretq
direct_stub_trap:
        int3
direct_stub_end:

        .section .note.GNU-stack, "", @progbits
