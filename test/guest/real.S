/*
 * real.S - real mode for 32-bit guests: enter_real() runs what `real` (struct real, modes.c) says in
 * real mode and returns at the first exception or interrupt. The 16-bit part is copied to 10000h.
 */
#define SEG     0x1000
#define SEL_C16 0x60    /* 16-bit code at 10000h; modes.c makes it */
#define SEL_D16 0x68    /* 16-bit data at 0, 64 KiB */

        .text
        .code32
        .globl  enter_real, real_begin, real_end, real_regs, real_stubs
enter_real:
        push    %ebp
        push    %ebx
        push    %esi
        push    %edi
        pushf
        cli
        mov     %esp, real_esp
        sgdt    0x10000 + (save_gdt - real_begin)
        sidt    save_idt
        mov     %cr0, %eax
        mov     %eax, save_cr0
        lidt    ivt
        ljmp    $SEL_C16, $(pm16 - real_begin)

leave_real:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        mov     %eax, %ss
        mov     real_esp, %esp
        lidt    save_idt
        mov     save_cr0, %eax
        mov     %eax, %cr0
        cld
        popf
        pop     %edi
        pop     %esi
        pop     %ebx
        pop     %ebp
        ret

/* --- copied to SEG:0 --- */

#define AT(label) (label - real_begin)

        .balign 16
        .code16
real_begin:
pm16:   mov     $SEL_D16, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     %ax, %fs
        mov     %ax, %gs
        mov     %cs:AT(unreal), %ax     /* the selector that gives ES its limit */
        mov     %ax, %es
        mov     %cr0, %eax
        and     $0x7ffffffe, %eax
        mov     %eax, %cr0
        ljmp    $SEG, $AT(rm16)
rm16:   mov     %cs:AT(r_ss), %ss
        mov     %cs:AT(r_sp), %esp
        cmpw    $0, %cs:AT(keep_es)
        jnz     1f
        mov     %cs:AT(r_es), %es
1:      mov     %cs:AT(r_fs), %fs
        mov     %cs:AT(r_gs), %gs
        mov     %cs:AT(r_ds), %ds
        pushw   %cs:AT(r_fl)
        pushw   %cs:AT(r_cs)
        pushw   %cs:AT(r_ip)
        mov     %cs:AT(r_cx), %ecx
        mov     %cs:AT(r_dx), %edx
        mov     %cs:AT(r_bx), %ebx
        mov     %cs:AT(r_bp), %ebp
        mov     %cs:AT(r_si), %esi
        mov     %cs:AT(r_di), %edi
        mov     %cs:AT(real_regs), %eax
        iretw

        .balign 8
real_stubs:
        .set    vec, 0
        .rept   256
        .balign 8
        pushw   $vec
        jmp     common
        .set    vec, vec + 1
        .endr

common: mov     %eax, %cs:AT(real_regs)
        mov     %ecx, %cs:AT(r_cx)
        mov     %edx, %cs:AT(r_dx)
        mov     %ebx, %cs:AT(r_bx)
        mov     %ebp, %cs:AT(r_bp)
        mov     %esi, %cs:AT(r_si)
        mov     %edi, %cs:AT(r_di)
        mov     %ds, %cs:AT(r_ds)
        mov     %es, %cs:AT(r_es)
        popw    %cs:AT(r_vec)
        popw    %cs:AT(r_ip)
        popw    %cs:AT(r_cs)
        popw    %cs:AT(r_fl)
        mov     %ss, %cs:AT(r_ss)
        mov     %esp, %cs:AT(r_sp)
        pushfw
        popw    %cs:AT(r_hfl)
        lgdtl   %cs:AT(save_gdt)
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $8, $leave_real

/* ORDER REAL: struct real */
        .balign 4
real_regs: .long 0
r_cx:   .long   0
r_dx:   .long   0
r_bx:   .long   0
r_sp:   .long   0
r_bp:   .long   0
r_si:   .long   0
r_di:   .long   0
r_ip:   .word   0
r_cs:   .word   0
r_fl:   .word   0
r_ss:   .word   0
r_ds:   .word   0
r_es:   .word   0
r_fs:   .word   0
r_gs:   .word   0
r_vec:  .word   0
r_hfl:  .word   0
unreal: .word   0
keep_es: .word  0
save_gdt: .word 0
        .long   0
real_end:

        .data
        .balign 4
ivt:    .word   0x3ff
        .long   0
save_idt: .word 0
        .long   0
save_cr0: .long 0
real_esp: .long 0
        .section .note.GNU-stack, "", @progbits
