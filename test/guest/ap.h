/*
 * ap.h - how application processors start: in real mode at 0x8000, then the way of start64.S. Each
 * gets a number from 1 on and calls ap_main(), which must not return.
 */
#ifndef POPF_TEST_AP_H
#define POPF_TEST_AP_H

#include "apic.h"

#define CPUS_MAX 8

__asm__(".pushsection .text\n"
        ".code16\n"
        ".globl ap_begin, ap_end\n"
        "ap_begin: cli\n"
        "xor %ax, %ax\n"
        "mov %ax, %ds\n"
        "lgdtl 0x8000 + ap_gdtr - ap_begin\n"
        "mov %cr0, %eax\n"
        "or $1, %al\n"
        "mov %eax, %cr0\n"
        "ljmpl $8, $0x8000 + ap32 - ap_begin\n"
        ".code32\n"
        "ap32: mov $0x10, %eax\n"
        "mov %eax, %ds\n"
        "mov %eax, %es\n"
        "mov %eax, %ss\n"
        "mov $1, %ebp\n"
        "lock xadd %ebp, ap_next\n"
        "mov %ebp, %esp\n"
        "shl $13, %esp\n"
        "add $ap_stacks + 8192, %esp\n"
        "mov $enter_long, %eax\n"
        "call *%eax\n"
        ".code64\n"
        "mov %ebp, %edi\n"
        "mov $0x10, %eax\n"
        "mov %eax, %ss\n"
        "mov $ap_main, %rax\n"
        "call *%rax\n"
        "ap_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
        "ap_gdtr: .word 23\n"
        ".long 0x8000 + ap_gdt - ap_begin\n"
        "ap_end:\n"
        ".popsection\n");
extern const char ap_begin[], ap_end[];
void ap_main(unsigned n);

volatile u32 ap_next = 1; /* numbers given out; the BSP is 0 */
u8 ap_stacks[CPUS_MAX * 8192] __attribute__((aligned(4096)));

#endif
