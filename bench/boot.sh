#!/bin/sh
# bench/boot.sh [RUNS [ENGINE [KIND]]] - time from start to power-off of a Debian kernel with a
# BusyBox initramfs: popf against QEMU's TCG (its PC and, for the cloud kernel, its microvm), taking
# turns, with the same kernel, initrd and command line (microvm cannot power off: there the script
# resets by a triple fault). Prints medians and their ratio.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
runs=${1:-5} engine=${2:-interp} kind=${3:-cloud}
"$top/tools/deps.sh" bench
guest=$("$top/tools/guest.sh" "$kind")
append="console=ttyS0 quiet panic=-1 reboot=t run=true"
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
# qemu MACHINE APPEND
qemu() {
    machine=$1
    timed "qemu-${machine%%,*}" qemu-system-x86_64 -accel tcg -machine "$machine" -cpu max -m 512 \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio \
        -kernel "$guest/vmlinuz" -initrd "$guest/initrd.gz" -append "$2"
}
median() {
    sort -n "$work/$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

i=0
while [ $i -lt "$runs" ]; do
    i=$((i + 1))
    timed popf "$top/build/popf" run --engine "$engine" --no-reboot -k "$guest/vmlinuz" \
        -i "$guest/initrd.gz" -a "$append"
    qemu pc "$append"
    [ "$kind" != cloud ] || qemu microvm,x-option-roms=off "${append%true}reboot -f"
done

popf=$(median popf)
echo "boot of $kind to the script and power-off, medians of $runs runs"
printf '%-24s %8s ms\n' "popf $engine" "$popf"
for q in qemu-pc qemu-microvm; do
    [ -f "$work/$q" ] || continue
    ms=$(median $q)
    printf '%-24s %8s ms   popf takes %s times as long\n' "$q (TCG)" "$ms" \
        "$(awk "BEGIN { printf \"%.1f\", $popf / $ms }")"
done
