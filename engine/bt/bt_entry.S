/*
 * bt_entry.S - into emitted code, out of it, and from it to C and back.
 *
 * Offsets from GS come from bt_offsets.h, which the build makes from the C headers.
 */
#include "bt_offsets.h"

        .text
        .globl bt_enter, bt_stub_body, bt_stub_body_saved, bt_stub_next
        .globl bt_stub_next_saved, bt_stub_jump, bt_stub_jump_saved, bt_stub_miss, bt_stub_fpu
        .globl bt_stub_cross, bt_stub_cross_saved
        .globl bt_stub_fpu_saved, bt_stub_exit, bt_stub_exit_saved, bt_stub_goto, bt_stub_leave

/* All but RAX, and to the monitor's stack. */
.macro save_regs
        mov     %rcx, %gs:CPU_REG + 8
        mov     %rdx, %gs:CPU_REG + 16
        mov     %rbx, %gs:CPU_REG + 24
        mov     %r15, %gs:CPU_REG + 32
        mov     %rbp, %gs:CPU_REG + 40
        mov     %rsi, %gs:CPU_REG + 48
        mov     %rdi, %gs:CPU_REG + 56
        mov     %r8, %gs:CPU_REG + 64
        mov     %r9, %gs:CPU_REG + 72
        mov     %r10, %gs:CPU_REG + 80
        mov     %r11, %gs:CPU_REG + 88
        mov     %r12, %gs:CPU_REG + 96
        mov     %rsp, %gs:CPU_ESP
        mov     %gs:CPU_HOST_RSP, %rsp
        movq    $0, %gs:CPU_IN_CODE
.endm

.macro save_rax
        mov     %rax, %gs:CPU_REG
.endm

/* RAX and the flags first: LAHF needs AX. */
.macro save_flags_rax
        mov     %rax, %gs:CPU_REG
        lahf
        seto    %al
        mov     %ax, %gs:CPU_AFLAGS
.endm

/* void bt_enter(void): at cpu.emitted[BT_RESUME], a far entry. */
        .balign 16
bt_enter:
        push    %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        sub     $8, %rsp
        mov     %rsp, %gs:CPU_HOST_RSP
        movq    $1, %gs:CPU_IN_CODE
        jmp     load

left:   incq    %gs:CPU_LEFT
leave:  add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        ret

/* RAX = where to go on in emitted code; NULL: leave. */
        .balign 16
back:   test    %rax, %rax
        jz      left
        mov     %rax, %gs:CPU_RESUME
load:   movzwl  %gs:CPU_AFLAGS, %eax
        mov     %gs:CPU_REG + 8, %rcx
        mov     %gs:CPU_REG + 16, %rdx
        mov     %gs:CPU_REG + 24, %rbx
        mov     %gs:CPU_REG + 32, %r15
        mov     %gs:CPU_REG + 40, %rbp
        mov     %gs:CPU_REG + 48, %rsi
        mov     %gs:CPU_REG + 56, %rdi
        mov     %gs:CPU_REG + 64, %r8
        mov     %gs:CPU_REG + 72, %r9
        mov     %gs:CPU_REG + 80, %r10
        mov     %gs:CPU_REG + 88, %r11
        mov     %gs:CPU_REG + 96, %r12
        mov     %gs:CPU_RFOURTEEN, %r14
        mov     %gs:CPU_ESP, %rsp
        addb    $0x7f, %al
        sahf
        mov     %gs:CPU_REG, %rax
        jmp     *%gs:CPU_RESUME

/* A jump from emitted code to C function \fn, R13 pointing to its data. */
.macro stub name, fn, save
        .balign 16
\name:
        \save
        save_regs
        mov     %gs:CPU_SELF, %rdi
        mov     %r13, %rsi
        call    \fn
        jmp     back
.endm

        stub    bt_stub_body, bt_body, save_flags_rax
        stub    bt_stub_body_saved, bt_body, save_rax
        stub    bt_stub_next, bt_next, save_flags_rax
        stub    bt_stub_next_saved, bt_next, save_rax
        stub    bt_stub_jump, bt_jump, save_flags_rax
        stub    bt_stub_jump_saved, bt_jump, save_rax
        stub    bt_stub_fpu, bt_fpu, save_flags_rax
        stub    bt_stub_fpu_saved, bt_fpu, save_rax

/* R14 = linear address. */
        .balign 16
bt_stub_miss:
        save_rax
        save_regs
        mov     %gs:CPU_SELF, %rdi
        mov     %r13, %rsi
        mov     %r14, %rdx
        mov     %r14, %gs:CPU_RFOURTEEN
        call    bt_miss
        jmp     back

/* Leaves; cpu.emitted[BT_LINK] = the struct bt_exit behind the call. */
.macro exit name, save
        .balign 16
\name:
        pop     %r13
        \save
        save_regs
        mov     %r13, %gs:CPU_LINK
        jmp     leave
.endm

        exit    bt_stub_exit, save_flags_rax
        exit    bt_stub_exit_saved, save_rax

/* The struct bt_exit that R13 points to leads to an instruction that is not translated. */
.macro cross name, save
        .balign 16
\name:
        \save
        save_regs
        mov     %gs:CPU_SELF, %rdi
        mov     %r13, %rsi
        call    bt_cross
        jmp     back
.endm

        cross   bt_stub_cross, save_flags_rax
        cross   bt_stub_cross_saved, save_rax

/*
 * R14 = RIP that its slot of the jump table does not have; the flags are in cpu.aflags. The second
 * slot may. What is not canonical is not salted: it might look like an address of another space.
 */
        .balign 16
bt_stub_goto:
        save_rax
        mov     %r14, %gs:CPU_SCRATCH
        mov     %gs:CPU_VIEW, %rax
        cmp     $VIEW_USER_SHORT, %eax
        je      2f
        cmp     $VIEW_USER, %eax
        je      2f
1:      rorx    $16, %r14, %r13
        xor     %r14, %r13
        xor     $1, %r13d
        movzwl  %r13w, %r13d
        add     %r13d, %r13d
        imul    $VIEW_BYTES, %rax, %rax
        lea     (%rax, %r13, 8), %r13
        cmp     %r14, %gs:TAGS_FIRST(%r13)
        jne     3f
        mov     %gs:CPU_REG, %rax
        jmp     *%gs:CODES_FIRST(%r13)
2:      mov     %r14, %r13
        shr     $47, %r13
        jnz     3f
        add     %gs:CPU_SALT, %r14
        jmp     1b
3:      mov     %gs:CPU_SCRATCH, %r14
        jmp     out

/* The same without asking the jump table. */
        .balign 16
bt_stub_leave:
        save_rax
out:    mov     %r14, %gs:CPU_REG + 17 * 8
        save_regs
        jmp     leave

        .section .note.GNU-stack, "", @progbits
