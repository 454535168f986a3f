#!/bin/sh
# bench/boot.sh [RUNS [ENGINE [KIND]]] - time from start to power-off of a Debian kernel with a
# BusyBox initramfs: popf against QEMU's TCG, taking turns, with the same kernel, initrd and command
# line. Prints medians and their ratio.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
runs=${1:-5} engine=${2:-interp} kind=${3:-cloud}
"$top/tools/deps.sh" bench
guest=$("$top/tools/guest.sh" "$kind")
append="console=ttyS0 quiet panic=-1 run=true"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# timed NAME COMMAND... - appends the seconds taken to $work/NAME
timed() {
    name=$1
    shift
    begin=$(date +%s%N)
    if ! timeout 300 "$@" </dev/null >"$work/log" 2>&1; then
        echo "$name failed:" >&2
        tail -n 5 "$work/log" >&2
        exit 1
    fi
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000)) >>"$work/$name"
}
median() {
    sort -n "$work/$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

i=0
while [ $i -lt "$runs" ]; do
    i=$((i + 1))
    timed popf "$top/build/popf" run --engine "$engine" --no-reboot -k "$guest/vmlinuz" \
        -i "$guest/initrd.gz" -a "$append"
    timed qemu qemu-system-x86_64 -accel tcg -machine pc -m 512 -nodefaults -no-user-config \
        -no-reboot -display none -serial stdio -kernel "$guest/vmlinuz" \
        -initrd "$guest/initrd.gz" -append "$append"
done

popf=$(median popf)
qemu=$(median qemu)
echo "boot of $kind to the script and power-off, medians of $runs runs"
printf '%-12s %8s ms\n' "popf $engine" "$popf" "QEMU TCG" "$qemu"
awk "BEGIN { printf \"popf takes %.1f times as long\\n\", $popf / $qemu }"
