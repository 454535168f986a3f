/*
 * start.S - a multiboot 1 guest: from 32-bit protected mode to 64-bit mode with the first GiB mapped
 * to itself, and the entries that micro.c measures.
 */
#define CR0_PG   0x80000000
#define CR0_WP   0x00010000
#define CR4_PAE  0x20
#define EFER     0xc0000080
#define EFER_SCE 0x1
#define EFER_LME 0x100
#define PTE_PWU  0x7 /* present, writable, user */
#define PDE_PS   0x80

        .code32
        .section .start, "ax"
        .globl _start
        .balign 4
header: .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long header, _load, _load_end, _bss_end, _start
_start:
        mov     $stack_top, %esp
        movl    $pdpt + PTE_PWU, pml4
        movl    $pd + PTE_PWU, pdpt
        mov     $pd, %edi
        mov     $PTE_PWU | PDE_PS, %eax
1:      mov     %eax, (%edi)
        movl    $0, 4(%edi)
        add     $0x200000, %eax
        add     $8, %edi
        cmp     $pd + 0x1000, %edi
        jne     1b
        mov     $CR4_PAE, %eax
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $EFER, %ecx
        rdmsr
        or      $EFER_SCE | EFER_LME, %eax
        wrmsr
        mov     %cr0, %eax
        or      $CR0_PG | CR0_WP, %eax
        mov     %eax, %cr0
        lgdt    gdt_ptr
        ljmp    $0x08, $2f

        .code64
2:      mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $tss, %eax
        mov     %ax, gdt_tss + 2
        shr     $16, %eax
        mov     %al, gdt_tss + 4
        mov     %ah, gdt_tss + 7
        mov     $0x30, %eax
        ltr     %ax
        call    micro_main
3:      hlt
        jmp     3b

        .text
/* #PF: on with the instruction behind the access (MOV AL, [RDI]: two bytes). */
        .globl  pgfault_entry
pgfault_entry:
        push    %rax
        mov     %cr2, %rax
        pop     %rax
        addq    $2, 8(%rsp)
        add     $8, %rsp
        iretq

/* #DE: on with the instruction behind the division (DIV ECX: two bytes). */
        .globl  divzero_entry
divzero_entry:
        addq    $2, (%rsp)
        iretq

        .globl  other_entry
other_entry:
        cli
        jmp     micro_unexpected

/* SYSCALL: nothing with EAX = 0, else back to the caller of user_run(). */
        .globl  syscall_entry
syscall_entry:
        test    %eax, %eax
        jnz     4f
        sysretq
4:      mov     user_rsp, %rsp
        pop     %rbp
        pop     %rbx
        ret

/* void user_run(u64 n): n null system calls from ring 3, which share its stack. */
        .globl  user_run
user_run:
        push    %rbx
        push    %rbp
        mov     %rsp, user_rsp
        mov     %rsp, %rax
        push    $0x23
        push    %rax
        push    $2
        push    $0x2b
        push    $5f
        mov     %rdi, %rbx
        iretq
5:      xor     %eax, %eax
        syscall
        dec     %rbx
        jnz     5b
        inc     %eax
        syscall

        .globl  nothing
        .balign 16
nothing:
        ret

        .data
        .balign 16
gdt:    .quad 0
        .quad 0x00af9b000000ffff /* 08 code, 64-bit */
        .quad 0x00cf93000000ffff /* 10 data */
        .quad 0x00cffb000000ffff /* 18 user code, 32-bit: SYSRET counts from here */
        .quad 0x00cff3000000ffff /* 20 user data */
        .quad 0x00affb000000ffff /* 28 user code, 64-bit */
gdt_tss:
        .quad 0x0000890000000067, 0
gdt_ptr:
        .word . - gdt - 1
        .quad gdt
        .balign 16
tss:    .long 0
        .quad stack_top
        .fill 92, 1, 0

        .bss
        .balign 4096
        .globl  pd
pml4:   .skip 4096
pdpt:   .skip 4096
pd:     .skip 4096
        .skip 16384
stack_top:
user_rsp:
        .skip 8
