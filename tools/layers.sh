#!/bin/sh
# tools/layers.sh - checks that no include arrow points up (docs/architecture.md) and that cli knows
# libpopf's public header only. Prints what is wrong; exit status 1 if anything is.
set -eu
cd "$(dirname "$0")/.."

may_include() {
    case $1 in
    base) echo "base" ;;
    x86) echo "base x86" ;;
    mem) echo "base mem" ;;
    cpu) echo "base x86 mem cpu" ;;
    engine) echo "base x86 mem cpu engine" ;;
    block) echo "base block" ;;
    net) echo "base net" ;;
    share) echo "base share" ;;
    gdb) echo "base gdb" ;;
    dev) echo "base mem block net share dev" ;;
    boot) echo "base x86 mem block boot" ;;
    pv) echo "base x86 mem cpu dev pv" ;;
    vm) echo "base x86 mem cpu engine block net share dev boot pv gdb vm popf.h" ;;
    guest) echo "guest" ;;
    cli) echo "cli guest popf.h" ;;
    esac
}

bad=0
for folder in base x86 mem cpu engine block net share dev boot pv gdb vm guest cli; do
    allowed=" $(may_include $folder) "
    for file in $(find $folder -name '*.[chS]' -o -name '*.def'); do
        for inc in $(sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file"); do
            case $inc in
            */*) to=${inc%%/*} ;;
            popf.h) to=$inc ;;
            *) to=$folder ;;
            esac
            case $allowed in
            *" $to "*) ;;
            *)
                echo "$file includes \"$inc\": $folder may know only$allowed"
                bad=1
                ;;
            esac
        done
    done
done
exit $bad
