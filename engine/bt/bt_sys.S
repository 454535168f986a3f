/*
 * bt_sys.S - SYSCALL and SYSRET of 64-bit code, and what POPF does with a value.
 *
 * Emitted code jumps here, all of the guest's state where it has it, arithmetic flags in
 * cpu.aflags; R13 points to a struct bt_site for the body, which is left everything unusual.
 * Nothing of the guest's is changed before the last such jump. What is done here is what
 * cpu/insn_far.c says, for EFLAGS.TF = RF = 0 as always in emitted code.
 *
 * Nothing may be pushed: RSP may be at the end of the prediction stack, and only emitted code may
 * run into its guard page.
 */
#include "bt_offsets.h"

        .text
        .globl bt_sys_syscall, bt_sys_sysret, bt_sys_popf

/* cpu.aflags = the arithmetic flags in R14D; R13 is lost. */
.macro put_aflags
        mov     %r14d, %r13d
        and     $0xd5, %r13d
        shl     $8, %r13d
        or      $0x200, %r13d
        bt      $11, %r14d
        adc     $0, %r13d
        mov     %r13w, %gs:CPU_AFLAGS
.endm

/* A flat segment with the selector in R13W. */
.macro put_flat segment, attr
        movq    $0, %gs:\segment + SEG_BASE
        movq    $-1, %gs:\segment + SEG_RD_END
        movq    $-1, %gs:\segment + SEG_WR_END
        movl    $-1, %gs:\segment + SEG_LIMIT
        movl    $\attr, %gs:\segment + SEG_ATTR
        mov     %r13w, %gs:\segment + SEG_SEL
.endm

/* The prediction stack has been put by. R13 is lost. */
.macro enter_view view, tlbs
        mov     %gs:CPU_SELF, %r13
        add     $\tlbs, %r13
        mov     %r13, %gs:CPU_TLB
        movq    $\view, %gs:CPU_VIEW
        mov     %gs:CPU_VIEW_ESP + 8 * \view, %rsp
.endm

/* On at RIP (+ salt) = R14. Falls through if it is not in the jump table. */
.macro jump_known tags, codes
        rorx    $16, %r14, %r13
        xor     %r14, %r13
        movzwl  %r13w, %r13d
        add     %r13d, %r13d
        cmp     %r14, %gs:\tags(, %r13, 8)
        jne     9f
        jmp     *%gs:\codes(, %r13, 8)
9:
.endm

/* From CPL 3; R14 = RIP behind the instruction. */
        .balign 16
bt_sys_syscall:
        testb   $BIT_EFER_SCE, %gs:CPU_EFER
        jz      bt_stub_jump_saved
        mov     %r14, %rcx
        movzbl  %gs:CPU_AFLAGS + 1, %r11d
        movzbl  %gs:CPU_AFLAGS, %r13d
        shl     $11, %r13d
        or      %r13d, %r11d
        or      %gs:CPU_EFLAGS, %r11d
        mov     %gs:CPU_SFMASK, %r14d
        andn    %r11d, %r14d, %r14d
        put_aflags
        mov     %r14d, %r13d
        and     $BITS_FLAGS, %r13d
        mov     %r13d, %gs:CPU_EFLAGS
        test    $BIT_IF, %r14d
        jnz     1f
        andl    $~BIT_EV_INTR, %gs:CPU_EVENT_MASK
1:      mov     %gs:CPU_STAR + 4, %r13d
        and     $0xfffc, %r13d
        put_flat CPU_CS, SEG_FLAT_CODE
        add     $8, %r13d
        put_flat CPU_SS, SEG_FLAT_DATA
        movb    $0, %gs:CPU_CPL
        mov     %rsp, %gs:CPU_VIEW_ESP + 8 * VIEW_USER
        testl   $BIT_CR_SMAP, %gs:CPU_CR_FOUR
        jz      2f
        test    $BIT_AC, %r14d
        jnz     2f
        enter_view VIEW_SMAP, TLBS_SMAP
        mov     %gs:CPU_LSTAR, %r14
        jump_known TAGS_SMAP, CODES_SMAP
        jmp     bt_stub_goto
2:      enter_view VIEW_KERNEL, TLBS_KERNEL
        mov     %gs:CPU_LSTAR, %r14
        jump_known TAGS_KERNEL, CODES_KERNEL
        jmp     bt_stub_goto

/* From CPL 0. Code in the upper half is not for CPL 3 to run translated. */
        .balign 16
bt_sys_sysret:
        testb   $BIT_EFER_SCE, %gs:CPU_EFER
        jz      bt_stub_jump_saved
        mov     %rcx, %r14
        shr     $47, %r14
        jnz     bt_stub_jump_saved
        test    $BIT_TF | BIT_AC, %r11d
        jnz     bt_stub_jump_saved
        mov     %r11d, %r14d
        put_aflags
        mov     %r11d, %r13d
        and     $BITS_FLAGS, %r13d
        mov     %r13d, %gs:CPU_EFLAGS
        movzwl  %gs:CPU_STAR + 6, %r13d
        add     $16, %r13d
        or      $3, %r13d
        put_flat CPU_CS, SEG_FLAT_CODE | SEG_RING_THREE
        movzwl  %gs:CPU_STAR + 6, %r13d
        add     $8, %r13d
        or      $3, %r13d
        put_flat CPU_SS, SEG_FLAT_DATA | SEG_RING_THREE
        movb    $3, %gs:CPU_CPL
        mov     %gs:CPU_VIEW, %r13
        mov     %rsp, %gs:CPU_VIEW_ESP(, %r13, 8)
        enter_view VIEW_USER, TLBS_USER
        mov     %rcx, %r14
        test    $BIT_IF, %r11d
        jz      1f
        orl     $BIT_EV_INTR, %gs:CPU_EVENT_MASK
        testl   $BIT_EV_INTR, %gs:CPU_EVENTS
        jnz     bt_stub_leave
        add     %gs:CPU_SALT, %r14
        jump_known TAGS_USER, CODES_USER
        mov     %rcx, %r14
        jmp     bt_stub_goto
1:      andl    $~BIT_EV_INTR, %gs:CPU_EVENT_MASK
        jmp     bt_stub_leave

/*
 * Called at CPL 0 with R14 = what was popped, TF and AC of which are as they were. ZF = 0: an
 * interrupt is due.
 */
        .balign 16
bt_sys_popf:
        put_aflags
        andl    $~BITS_POPF, %gs:CPU_EFLAGS
        mov     %r14d, %r13d
        and     $BITS_POPF, %r13d
        or      %r13d, %gs:CPU_EFLAGS
        test    $BIT_IF, %r14d
        jz      1f
        orl     $BIT_EV_INTR, %gs:CPU_EVENT_MASK
        testl   $BIT_EV_INTR, %gs:CPU_EVENTS
        ret
1:      andl    $~BIT_EV_INTR, %gs:CPU_EVENT_MASK
        xor     %r13d, %r13d
        ret

        .section .note.GNU-stack, "", @progbits
