#!/bin/sh
# tools/globals.sh BUILD-DIR - checks that popf's objects have no mutable data: nothing in .data or
# .bss. Tables of pointers that only the linker writes (.data.rel.ro) are constant; thread-local
# variables are a thread's own. Signal dispositions belong to the process: what cpu_fpu.c keeps of
# the ones it replaced is allowed, and so is the list that gdb looks for under its name in a process
# (bt_gdbjit.c).
set -eu
dir=$1

found=$(
    cd "$dir"
    for lib in base x86 mem cpu engine block net share dev boot pv gdb vm cli; do
        find "$lib" -name '*.o' ! -path '*genindex*' 2>/dev/null
    done | while read -r obj; do
        # Symbol type d, D, b, B, C: data, bss, common. Thread-local ones are listed likewise.
        nm "$obj" 2>/dev/null | awk -v obj="$obj" '$2 ~ /^[dDbBC]$/ { print obj, $3 }' |
            while read -r file sym; do
                section=$(objdump -t "$obj" | awk -v s="$sym" '
                    $NF == s { for (i = 1; i <= NF; i++) if ($i ~ /^[.*]/) { print $i; exit } }')
                case $file:$sym:$section in
                *:.data.rel.ro* | *:.tbss* | *:.tdata*) ;;
                */cpu_fpu.c.o:handlers_lock:* | */cpu_fpu.c.o:previous:*) ;;
                *gdbjit.c.o:__jit_debug_descriptor:* | *gdbjit.c.o:listing:*) ;;
                *) echo "$file: $sym is mutable ($section)" ;;
                esac
            done
    done
)
[ -z "$found" ] && exit 0
echo "$found"
exit 1
