#!/bin/sh
# Wrong files and wrong options: one line and exit status 1 or 2, nothing that a sanitizer minds.
set -u
. "$(dirname "$0")/lib.sh"
popf=$SAN_POPF
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
log=$SCRATCH/bad.log

# refuse NAME OPTION... - must be refused
refuse() {
    name=$1
    shift
    status=0
    timeout -k 5 60 "$popf" "$@" </dev/null >"$log" 2>&1 || status=$?
    if grep -Eq 'AddressSanitizer|runtime error' "$log"; then
        not_ok "$name" "$(grep -E 'AddressSanitizer|runtime error' "$log" | head -n 1)"
    elif [ $status != 1 ] && [ $status != 2 ]; then
        not_ok "$name" "status $status"
    elif [ "$(wc -l <"$log")" != 1 ]; then
        not_ok "$name" "not one line but $(wc -l <"$log"): $(tail_of "$log")"
    else
        ok "$name"
    fi
}

# survive NAME OPTION... - may run, for a little while; must not crash
survive() {
    name=$1
    shift
    status=0
    timeout -k 5 60 "$popf" run --max-insns 300000 --timeout 20 "$@" </dev/null >"$log" 2>&1 ||
        status=$?
    if grep -Eq 'AddressSanitizer|runtime error' "$log"; then
        not_ok "$name" "$(grep -E 'AddressSanitizer|runtime error' "$log" | head -n 1)"
    elif [ $status -gt 2 ] && [ $status != 124 ]; then
        not_ok "$name" "status $status: $(tail_of "$log")"
    else
        ok "$name"
    fi
}

refuse "no kernel" run
refuse "unknown option" run --steam
refuse "unknown command" steam
refuse "option without its value" run --kernel
refuse "two kernels" run one two
for size in 0 512 12X -1 '' 99999999999999999999G 2T; do
    refuse "memory \"$size\"" run --memory "$size" x
done
for n in 0 -1 65 two ''; do
    refuse "cpus \"$n\"" run --cpus "$n" x
done
refuse "engine steam" run --engine steam x
refuse "entry steam" run --entry steam x
refuse "trace steam" run --trace steam x
refuse "kernel that is not there" run --kernel "$SCRATCH/nowhere"
refuse "kernel /dev/null" run --kernel /dev/null
refuse "kernel is a directory" run --kernel "$SCRATCH"
refuse "kernel is a device" run --kernel /dev/zero
echo '#!/bin/sh' >"$SCRATCH/foreign"
refuse "kernel is a script" run --kernel "$SCRATCH/foreign"
refuse "kernel is popf" run --kernel "$popf"

# flip FILE OFFSET OUT - inverts a byte
flip() {
    cp "$1" "$3"
    chmod u+w "$3"
    byte=$(dd if="$1" bs=1 skip="$2" count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
    # shellcheck disable=SC2059
    printf "\\$(printf %o $((byte ^ 255)))" | dd of="$3" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

for kind in cloud amd64 686; do
    have_guest "broken $kind" $kind || continue
    kernel=$GUESTS/$kind/vmlinuz
    size=$(wc -c <"$kernel")
    for n in 1 511 1024 16000 $((size / 2)) $((size - size / 8)); do
        head -c $n "$kernel" >"$SCRATCH/short"
        refuse "$kind kernel cut to $n bytes" run --kernel "$SCRATCH/short"
    done
    for at in 497 514 528 568 $((size / 3)) $((size / 2)); do
        flip "$kernel" $at "$SCRATCH/flipped"
        survive "$kind kernel with byte $at inverted" --kernel "$SCRATCH/flipped"
    done
done

if have_guest "initrd" cloud; then
    kernel=$GUESTS/cloud/vmlinuz
    refuse "initrd that is not there" run -k "$kernel" --initrd "$SCRATCH/nowhere"
    refuse "initrd /dev/null" run -k "$kernel" --initrd /dev/null
    refuse "initrd is a directory" run -k "$kernel" --initrd "$SCRATCH"
    refuse "memory too small" run -k "$kernel" --memory 4M
    head -c 1000 "$GUESTS/cloud/initrd.gz" >"$SCRATCH/short"
    survive "initrd cut short" -k "$kernel" --initrd "$SCRATCH/short"
    flip "$GUESTS/cloud/initrd.gz" 5000 "$SCRATCH/flipped"
    survive "initrd with a byte inverted" -k "$kernel" --initrd "$SCRATCH/flipped"
fi
