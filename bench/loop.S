/*
 * bench/loop.S - a multiboot 1 kernel that runs a busy integer loop of a known number of
 * instructions and leaves through the debug-exit port: what `popf run --stats` says of it is the
 * engine's speed. ROUNDS x 10 instructions: arithmetic, shifts, loads, stores, a branch.
 */
        .code32
        .globl _start
#define LOAD   0x100000
#define ROUNDS 100000000
_start:
        .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long LOAD, LOAD, LOAD + 0x1000, LOAD + 0x2000, LOAD + 32
        mov     $0x180000, %esp
        mov     $ROUNDS, %ecx
        mov     $0x200000, %esi
        xor     %eax, %eax
        xor     %ebx, %ebx
1:      add     %ecx, %eax
        mov     %eax, %edx
        shr     $7, %edx
        xor     %edx, %eax
        and     $0xffc, %edx
        mov     (%esi,%edx), %edi
        add     %edi, %ebx
        mov     %ebx, (%esi,%edx)
        dec     %ecx
        jnz     1b
        mov     $0xf4, %dx
        xor     %eax, %eax
        out     %eax, %dx
2:      hlt
        jmp     2b
