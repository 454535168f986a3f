#!/bin/sh
# bench/build.sh DIR - builds the programs of the benchmark into DIR: popfbench64, popfbench32 (or
# popfbench32.why), the micro-operations, and the small tools of the host. Needs build/ (popf built).
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
out=$1
build=${BUILD:-$top/build}
mkdir -p "$out"
warn="-std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers"
bare="-fno-strict-aliasing -fcf-protection=none"

stale() {
    [ ! -f "$out/.built" ] || [ -n "$(find "$top/bench" "$top/boot/decompress.h" -newer "$out/.built")" ]
}
stale || exit 0
rm -f "$out/.built"
touch "$out/.begun" # what is edited from now on is newer

awk -f "$top/bench/prog/cold.awk" >"$out/cold.c"

program() { # BITS
    # shellcheck disable=SC2086
    gcc -m"$1" $warn $bare -O2 -fno-math-errno -static -pthread -I"$top/bench/prog" \
        -o "$out/popfbench$1" "$top"/bench/prog/*.c "$out/cold.c"
    strip "$out/popfbench$1"
}
program 64
rm -f "$out/popfbench32" "$out/popfbench32.why"
if ! echo 'int main(void) { return 0; }' |
    gcc -m32 -static -x c -o "$out/m32" - 2>"$out/popfbench32.log"; then
    echo "gcc -m32 -static does not work here: install gcc-multilib" >"$out/popfbench32.why"
else
    program 32
fi

# shellcheck disable=SC2086
gcc $warn $bare -O2 -ffreestanding -fno-pic -mno-red-zone -mgeneral-regs-only \
    -fno-stack-protector -nostdlib -static -Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack \
    -Wl,-T,"$top/bench/micro/micro.ld" -o "$out/micro.elf" \
    "$top/bench/micro/start.S" "$top/bench/micro/micro.c"
objcopy -O binary "$out/micro.elf" "$out/micro"

# shellcheck disable=SC2086
for tool in measure initrd; do
    gcc $warn -O2 -o "$out/$tool" "$top/bench/host/$tool.c"
done
# shellcheck disable=SC2086
gcc $warn -Wno-sign-compare -O2 -I"$top" -o "$out/vmlinux" "$top/bench/host/vmlinux.c" \
    "$build/boot/libboot.a" "$build/mem/libmem.a" "$build/base/libbase.a" \
    -lz -llzma -llz4 -lzstd
mv "$out/.begun" "$out/.built"
