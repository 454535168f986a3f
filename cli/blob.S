/*
 * Files that are part of the program. A struct blob (blob.h) for each: where, how long.
 */
.macro blob name, file
        .section .rodata
.Ldata_\name:
        .incbin "\file"
.Lend_\name:
        .section .data.rel.ro, "aw"
        .balign 8
        .globl  \name
        .type   \name, @object
        .size   \name, 16
\name:  .quad   .Ldata_\name, .Lend_\name - .Ldata_\name
.endm

        blob blob_build_root, BUILD_ROOT
        blob blob_agent64, AGENT64
        blob blob_agent32, AGENT32

        .section .note.GNU-stack, "", @progbits
