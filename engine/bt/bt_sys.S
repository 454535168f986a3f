/*
 * bt_sys.S - SYSCALL and SYSRET of 64-bit code, SYSENTER and SYSEXIT of 32-bit code, and what POPF
 * and loads of segment registers do with a value.
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
        .globl bt_sys_syscall, bt_sys_sysret, bt_sys_popf, bt_sys_sysenter, bt_sys_sysexit
        .globl bt_sys_load_es, bt_sys_load_ds, bt_sys_load_fs, bt_sys_load_gs

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
.macro put_flat segment, attr, wr_end=-1
        movq    $0, %gs:\segment + SEG_BASE
        movq    $-1, %gs:\segment + SEG_RD_END
        movq    $\wr_end, %gs:\segment + SEG_WR_END
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

/* User code is there, and may not be for translations. */
.macro arrive
        testl   $BIT_ARRIVE_ASK, %gs:CPU_ARRIVE
        jnz     bt_sys_arrived
.endm

        .balign 16
bt_sys_arrived:
        orl     $BIT_ARRIVE_HERE, %gs:CPU_ARRIVE
        jmp     bt_stub_leave

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
        arrive
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

/* From CPL 3. Processors in long mode go on in 64-bit code: the body's. */
        .balign 16
bt_sys_sysenter:
        testl   $BIT_EFER_LMA, %gs:CPU_EFER
        jnz     bt_stub_jump_saved
        mov     %gs:CPU_SYSENTER_CS, %r14d
        and     $0xfffc, %r14d
        jz      bt_stub_jump_saved
        andl    $~BIT_IF, %gs:CPU_EFLAGS
        andl    $~BIT_EV_INTR, %gs:CPU_EVENT_MASK
        mov     %r14d, %r13d
        put_flat CPU_CS, SEG_FLAT_SHORT_CODE, 0
        add     $8, %r13d
        put_flat CPU_SS, SEG_FLAT_DATA
        movb    $0, %gs:CPU_CPL
        mov     %gs:CPU_SYSENTER_ESP, %r15d
        mov     %rsp, %gs:CPU_VIEW_ESP + 8 * VIEW_USER_SHORT
        testl   $BIT_CR_SMAP, %gs:CPU_CR_FOUR
        jz      2f
        testl   $BIT_AC, %gs:CPU_EFLAGS
        jnz     2f
        enter_view VIEW_SMAP_SHORT, TLBS_SMAP
        mov     %gs:CPU_SYSENTER_EIP, %r14d
        jump_known TAGS_SMAP_SHORT, CODES_SMAP_SHORT
        jmp     bt_stub_goto
2:      enter_view VIEW_KERNEL_SHORT, TLBS_KERNEL
        mov     %gs:CPU_SYSENTER_EIP, %r14d
        jump_known TAGS_KERNEL_SHORT, CODES_KERNEL_SHORT
        jmp     bt_stub_goto

/* From CPL 0. IF stays as it is, and with it what is waited for. */
        .balign 16
bt_sys_sysexit:
        testl   $BIT_EFER_LMA, %gs:CPU_EFER
        jnz     bt_stub_jump_saved
        testl   $BIT_CR_PE, %gs:CPU_CR_ZERO
        jz      bt_stub_jump_saved
        mov     %gs:CPU_SYSENTER_CS, %r14d
        and     $0xfffc, %r14d
        jz      bt_stub_jump_saved
        testl   $BIT_AC, %gs:CPU_EFLAGS
        jnz     bt_stub_jump_saved
        lea     16 + 3(%r14), %r13d
        put_flat CPU_CS, SEG_FLAT_SHORT_CODE | SEG_RING_THREE, 0
        add     $8, %r13d
        put_flat CPU_SS, SEG_FLAT_DATA | SEG_RING_THREE
        movb    $3, %gs:CPU_CPL
        mov     %ecx, %r15d
        mov     %gs:CPU_VIEW, %r13
        mov     %rsp, %gs:CPU_VIEW_ESP(, %r13, 8)
        enter_view VIEW_USER_SHORT, TLBS_USER
        mov     %edx, %r14d
        arrive
        add     %gs:CPU_SALT, %r14
        jump_known TAGS_USER_SHORT, CODES_USER_SHORT
        mov     %edx, %r14d
        jmp     bt_stub_goto

/*
 * Called at CPL 0 in 32-bit code with R14D = a selector for a data segment register and R13D = what
 * is to be added to the shadow table's entries for the current kind of reading. ZF = 0: it is the
 * body's, and nothing has changed. In long mode the table may have the entry of an address that
 * differs above bit 31, through which nothing can be read from here.
 */
.macro load_segment segment, flat
        mov     %rax, %gs:CPU_REG
        mov     %rcx, %gs:CPU_REG + 8
        testl   $BIT_EFER_LMA, %gs:CPU_EFER
        jnz     9f
        testl   $BIT_CR_PE, %gs:CPU_CR_ZERO
        jz      9f
        mov     %r14d, %eax
        shr     $3, %eax
        and     $KNOWN_MASK, %eax
        shl     $KNOWN_SHIFT, %eax
        lea     BIT_KNOWN(%r14), %ecx
        cmp     %ecx, %gs:KNOWN(%rax)
        jne     9f
        .if \flat
        cmpl    $0, %gs:KNOWN_FLAT(%rax)
        je      9f
        .endif
        mov     %r14d, %ecx
        and     $~7, %ecx
        jz      1f
        lea     7(%rcx), %r14d
        cmp     %r14w, %gs:CPU_GDTR_LIMIT
        jb      9f
        add     %gs:CPU_GDTR_BASE, %ecx
        test    $7, %cl
        jnz     9f
        mov     %ecx, %r14d
        shr     $12, %r14d
        lea     (%r13d, %r14d, 8), %r13d
        mov     %gs:(%r13d), %r13
        test    %r13, %r13
        jz      9f
        mov     (%rcx, %r13), %r13
        cmp     %r13, %gs:KNOWN_RAW(%rax)
        jne     9f
1:      mov     %gs:KNOWN_SEG + SEG_BASE(%rax), %r13
        mov     %gs:KNOWN_SEG + SEG_RD_END(%rax), %r14
        mov     %gs:KNOWN_SEG + SEG_WR_END(%rax), %rcx
        mov     %r13, %gs:\segment + SEG_BASE
        mov     %r14, %gs:\segment + SEG_RD_END
        mov     %rcx, %gs:\segment + SEG_WR_END
        mov     %gs:KNOWN_SEG + SEG_LIMIT(%rax), %r13d
        mov     %gs:KNOWN_SEG + SEG_ATTR(%rax), %r14d
        movzwl  %gs:KNOWN_SEG + SEG_SEL(%rax), %ecx
        mov     %r13d, %gs:\segment + SEG_LIMIT
        mov     %r14d, %gs:\segment + SEG_ATTR
        mov     %cx, %gs:\segment + SEG_SEL
        mov     %gs:CPU_REG, %rax
        mov     %gs:CPU_REG + 8, %rcx
        cmp     %eax, %eax
        ret
9:      mov     %gs:CPU_REG, %rax
        mov     %gs:CPU_REG + 8, %rcx
        test    %rsp, %rsp
        ret
.endm

        .balign 16
bt_sys_load_es:
        load_segment CPU_ES, 1
        .balign 16
bt_sys_load_ds:
        load_segment CPU_DS, 1
        .balign 16
bt_sys_load_fs:
        load_segment CPU_FS, 0
        .balign 16
bt_sys_load_gs:
        load_segment CPU_GS, 0

        .section .note.GNU-stack, "", @progbits
