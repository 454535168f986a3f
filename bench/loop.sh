#!/bin/sh
# bench/loop.sh [ENGINE] - millions of guest instructions a second on a busy integer loop (loop.S).
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
engine=${1:-interp}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -c "$top/bench/loop.S" -o "$work/loop.o"
objcopy -O binary -j .text "$work/loop.o" "$work/loop"
truncate -s 4096 "$work/loop"
status=0
"$top/build/popf" run --engine "$engine" --debug-exit --stats --memory 4M "$work/loop" \
    2>"$work/log" || status=$?
if [ $status != 1 ] || ! grep -q '^instructions' "$work/log"; then # status: 0 * 2 + 1
    cat "$work/log" >&2
    exit 1
fi
sed -n "s/^instructions/busy loop, $engine:/p" "$work/log"
