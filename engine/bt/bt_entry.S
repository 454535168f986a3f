/*
 * bt_entry.S - into emitted code, out of it, and from it to C bodies and back.
 *
 * Offsets into struct cpu come from bt_offsets.h, which the build makes from the C headers.
 */
#include "bt_offsets.h"

        .text
        .globl bt_enter, bt_leave, bt_body, bt_body_saved, bt_body_end
        .globl bt_body_end_saved, bt_jump_to, bt_wrote_code, bt_wrote_code_saved
        .globl bt_body_fpu, bt_body_fpu_saved, bt_fpu, bt_fpu_saved

.macro save_regs
        mov     %rcx, %gs:CPU_REG + 8
        mov     %rdx, %gs:CPU_REG + 16
        mov     %rbx, %gs:CPU_REG + 24
        mov     %rsp, %gs:CPU_REG + 32
        mov     %rbp, %gs:CPU_REG + 40
        mov     %rsi, %gs:CPU_REG + 48
        mov     %rdi, %gs:CPU_REG + 56
        mov     %r8, %gs:CPU_REG + 64
        mov     %r9, %gs:CPU_REG + 72
        mov     %r10, %gs:CPU_REG + 80
        mov     %r11, %gs:CPU_REG + 88
        mov     %r12, %gs:CPU_REG + 96
.endm

/* RAX and the flags last and first: LAHF and SAHF need AX. */
.macro save_flags_rax
        mov     %rax, %gs:CPU_REG
        lahf
        seto    %al
        mov     %ax, %gs:CPU_AFLAGS
.endm

.macro load_all
        movzwl  %gs:CPU_AFLAGS, %eax
        mov     %gs:CPU_REG + 8, %rcx
        mov     %gs:CPU_REG + 16, %rdx
        mov     %gs:CPU_REG + 24, %rbx
        mov     %gs:CPU_REG + 32, %rsp
        mov     %gs:CPU_REG + 40, %rbp
        mov     %gs:CPU_REG + 48, %rsi
        mov     %gs:CPU_REG + 56, %rdi
        mov     %gs:CPU_REG + 64, %r8
        mov     %gs:CPU_REG + 72, %r9
        mov     %gs:CPU_REG + 80, %r10
        mov     %gs:CPU_REG + 88, %r11
        mov     %gs:CPU_REG + 96, %r12
        addb    $0x7f, %al
        sahf
        mov     %gs:CPU_REG, %rax
.endm

/* void bt_enter(struct cpu *, const u8 *code) */
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
        mov     %rsi, %gs:CPU_RESUME
        load_all
        mov     %gs:CPU_REG + 17 * 8, %r14
        jmp     *%gs:CPU_RESUME

/* RIP is in cpu.reg[]. */
        .balign 16
bt_leave:
        save_flags_rax
        save_regs
back:   mov     %gs:CPU_HOST_RSP, %rsp
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        ret

/*
 * R14 = struct op *, R13 = RIP after the instruction, R15 = where to go on. bt_body_saved: the flags
 * are in cpu.aflags already. bt_body_end: the instruction ends its block, R15 is not used.
 */
        .balign 16
bt_body_saved:
        mov     %rax, %gs:CPU_REG
        jmp     1f
        .balign 16
bt_body:
        save_flags_rax
1:      save_regs
        mov     %r15, %gs:CPU_RESUME
        mov     %gs:CPU_HOST_RSP, %rsp
        mov     %r13, %gs:CPU_REG + 17 * 8
        lea     OP_INSN(%r14), %rsi
        mov     %rsi, %gs:CPU_INSN
        mov     %gs:CPU_SELF, %rdi
        call    *OP_FN(%r14)
        movq    $0, %gs:CPU_INSN
        cmpb    $0, %gs:CPU_CODE_STALE
        jne     back
        load_all
        jmp     *%gs:CPU_RESUME
        .balign 16
bt_body_end_saved:
        mov     %rax, %gs:CPU_REG
        jmp     1f
        .balign 16
bt_body_end:
        save_flags_rax
1:      save_regs
        mov     %gs:CPU_HOST_RSP, %rsp
        mov     %r13, %gs:CPU_REG + 17 * 8
        lea     OP_INSN(%r14), %rsi
        mov     %rsi, %gs:CPU_INSN
        mov     %gs:CPU_SELF, %rdi
        call    *OP_FN(%r14)
        movq    $0, %gs:CPU_INSN
        jmp     back

/*
 * The same where the code behind counts on the FP state: if the body has sent it home, it is fetched
 * again. If it cannot be as it was, the block is left.
 */
        .balign 16
bt_body_fpu_saved:
        mov     %rax, %gs:CPU_REG
        jmp     1f
        .balign 16
bt_body_fpu:
        save_flags_rax
1:      save_regs
        mov     %r15, %gs:CPU_RESUME
        mov     %gs:CPU_HOST_RSP, %rsp
        mov     %r13, %gs:CPU_REG + 17 * 8
        lea     OP_INSN(%r14), %rsi
        mov     %rsi, %gs:CPU_INSN
        mov     %gs:CPU_SELF, %rdi
        mov     %gs:CPU_FPU_OFF, %ebx
        call    *OP_FN(%r14)
        movq    $0, %gs:CPU_INSN
        cmpb    $0, %gs:CPU_CODE_STALE
        jne     back
        cmp     %gs:CPU_FPU_OFF, %ebx
        je      1f
        mov     %gs:CPU_SELF, %rdi
        mov     $FPU_SSE_LEVEL, %esi
        call    cpu_fpu_ready
        cmp     %gs:CPU_FPU_OFF, %ebx
        jne     back
1:      load_all
        jmp     *%gs:CPU_RESUME

/* R13, R14, R15 as above: on at R15, at this very instruction, when the FP state is there at the level
 * in CPU_SCRATCH. If it cannot be, the body has run, and the block is left. */
        .balign 16
bt_fpu_saved:
        mov     %rax, %gs:CPU_REG
        jmp     1f
        .balign 16
bt_fpu:
        save_flags_rax
1:      save_regs
        mov     %r15, %gs:CPU_RESUME
        mov     %gs:CPU_HOST_RSP, %rsp
        mov     %r13, %gs:CPU_REG + 17 * 8
        mov     %gs:CPU_SELF, %rdi
        mov     %r14, %rsi
        call    bt_fpu_enter
        test    %al, %al
        jz      back
        load_all
        jmp     *%gs:CPU_RESUME

/* R14 = host address just written, on a page with code; R13 = RIP after the instruction. */
        .balign 16
bt_wrote_code_saved:
        mov     %rax, %gs:CPU_REG
        jmp     1f
        .balign 16
bt_wrote_code:
        save_flags_rax
1:      save_regs
        mov     %gs:CPU_HOST_RSP, %rsp
        mov     %r13, %gs:CPU_REG + 17 * 8
        mov     %gs:CPU_SELF, %rdi
        mov     %r14, %rsi
        call    bt_wrote
        jmp     back

/* R14 = RIP to go to. Looks it up without touching the flags. */
        .balign 16
bt_jump_to:
        mov     %r14, %gs:CPU_REG + 17 * 8
        movzwl  %r14w, %r13d
        lea     (%r13, %r13), %r13
        mov     %gs:CPU_JTAB, %r15
        lea     (%r15, %r13, 8), %r15
        mov     (%r15), %r13
        mov     %rcx, %gs:CPU_SCRATCH
        lea     (%r13, %r14), %rcx
        jrcxz   1f
        mov     %gs:CPU_SCRATCH, %rcx
        jmp     bt_leave
1:      mov     %gs:CPU_SCRATCH, %rcx
        jmp     *8(%r15)

        .section .note.GNU-stack, "", @progbits
