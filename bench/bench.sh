#!/bin/sh
# bench/bench.sh [OPTION...] [CASE...] - runs the benchmark (bench/README.md) and prints its tables.
#   -n RUNS      rounds: 3              -t MS        time for each case: 200
#   -e ENGINES   of popf: "interp bt"   -k KINDS     programs and guests: "64 32"
#   -p PARTS     of "programs smp micro boot"        -q none  without QEMU
#   -o DIR       where results go: build/bench
# CASE: names or groups of popfbench's cases (`popfbench64 -l` lists them); default: all.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
runs=3 ms=200 engines="interp bt" kinds="64 32" parts="programs smp micro boot" qemu=yes
out=$top/build/bench
popf=${POPF:-$top/build/popf}
limit=${LIMIT:-1200} # seconds for a guest
while getopts n:t:e:k:p:q:o: opt; do
    case $opt in
    n) runs=$OPTARG ;;
    t) ms=$OPTARG ;;
    e) engines=$OPTARG ;;
    k) kinds=$OPTARG ;;
    p) parts=$OPTARG ;;
    q) qemu=$OPTARG ;;
    o) out=$OPTARG ;;
    *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
cases=${*:-all}

"$top/bench/build.sh" "$out/bin"
bin=$out/bin
raw=$out/raw.csv notes=$out/notes log=$out/log
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say() {
    echo "$*" >&2
}
note() { # what was left out, and why; once
    grep -qxF "$*" "$notes" 2>/dev/null || echo "$*" >>"$notes"
}
has_part() {
    case " $parts " in *" $1 "*) return 0 ;; esac
    return 1
}

# --- what there is ---

qemu_of() { # KIND
    [ "$qemu" != none ] || return 1
    if [ "$1" = 32 ] && command -v qemu-system-i386; then
        return 0
    fi
    command -v qemu-system-x86_64
}
debian_kind() {
    case $1 in 64) echo cloud ;; 32) echo 686 ;; esac
}

# Fills $work/guest-KIND: vmlinuz, vmlinux (PVH), initrd.gz as it is, initrd.cpio with the programs.
prepare() {
    kind=$1 dir=$work/guest-$1
    mkdir -p "$dir"
    if [ -f "$bin/popfbench$kind.why" ]; then
        note "$kind-bit programs: $(cat "$bin/popfbench$kind.why")"
        return 1
    fi
    if ! from=$("$top/tools/guest.sh" "$(debian_kind "$kind")" 2>"$work/why"); then
        note "$kind-bit guest: $(tail -n 1 "$work/why")"
        return 1
    fi
    cp "$from/vmlinuz" "$from/initrd.gz" "$dir/"
    "$bin/vmlinux" "$dir/vmlinuz" >"$dir/vmlinux"
    gzip -dc "$dir/initrd.gz" >"$dir/initrd.cpio"
    "$bin/initrd" get bin/busybox <"$dir/initrd.cpio" >"$dir/busybox"
    chmod 755 "$dir/busybox"
    "$bin/initrd" put "bin/popfbench=$bin/popfbench$kind" >>"$dir/initrd.cpio"
}

# --- programs ---

# guest KIND TARGET CPUS COMMAND: the status of `measure`; output in $log
guest() {
    g=$work/guest-$1
    append="console=ttyS0 quiet panic=-1 run=mount -t tmpfs tmp /tmp; $4"
    case $2 in
    qemu)
        set -- "$(qemu_of "$1")" -accel tcg,thread=multi -machine pc -cpu max -m 512 -smp "$3" \
            -nodefaults -no-user-config -no-reboot -display none -serial stdio \
            -kernel "$g/vmlinuz" -initrd "$g/initrd.cpio" -append "$append"
        ;;
    *)
        set -- "$popf" run --engine "$2" --cpus "$3" --memory 512M --no-reboot \
            --kernel "$g/vmlinuz" --initrd "$g/initrd.cpio" --append "$append"
        ;;
    esac
    "$bin/measure" "$limit" "$log" "$@"
}
native() { # KIND COMMAND...
    kind=$1
    shift
    POPFBENCH_TMP=/dev/shm POPFBENCH_BUSYBOX=$work/guest-$kind/busybox \
        "$bin/measure" "$limit" "$log" "$bin/popfbench$kind" "$@"
}

# Puts what $log tells into the results; fails if the program did not come to its end.
collect() { # RUN KIND TARGET
    tr -d '\r' <"$log" | grep -ao 'bench [a-z]* .*\|bench end' >"$work/lines" || true
    awk -v run="$1" -v kind="$2" -v target="$3" '
        $2 == "done" && NF == 7 { print run "," kind "," target "," $3 "," $4 "," $5 "," $7 }' \
        "$work/lines" >>"$raw"
    sed -n "s/^bench skip \([^ ]*\) [^ ]*/$2-bit $3: \1:/p;s/^bench wrong/$2-bit $3: results differ:/p" \
        "$work/lines" | while read -r line; do note "$line"; done
    grep -q '^bench end' "$work/lines"
}
last_begun() {
    awk '$2 == "begin" { name = $3 } $2 == "done" || $2 == "skip" { name = "" }
        END { print name }' "$work/lines"
}

# All cases; past those at which a guest breaks down.
programs() { # RUN KIND TARGET CPUS CASES
    after="" broken=0
    while :; do
        say "round $1: $2-bit programs, $3${after:+, after $after}"
        if [ "$3" = native ]; then
            stay=
            [ "$4" != 1 ] || stay=-1
            # shellcheck disable=SC2086
            took=$(native "$2" -t "$ms" $stay $after $5)
        else
            took=$(guest "$2" "$3" "$4" "popfbench -t $ms $after $5")
        fi
        if collect "$1" "$2" "$3"; then
            return 0
        fi
        cp "$log" "$out/log.$2.$3.$broken"
        name=$(last_begun)
        if [ -z "$name" ]; then
            note "$2-bit $3: nothing ran, status ${took%% *}: $(tail -n 1 "$log" | tr -d '\r')"
            return 0
        fi
        note "$2-bit $3: $name did not end, status ${took%% *}"
        after="-a $name" broken=$((broken + 1))
        [ $broken -lt 6 ] || return 0
    done
}

targets_of() { # KIND
    echo "$engines"
    qemu_of "$1" >/dev/null && echo qemu
    true
}

# --- the micro-operations ---

micro() { # RUN TARGET
    say "round $1: micro-operations, $2"
    case $2 in
    qemu)
        "$bin/measure" 120 "$log" "$(qemu_of 64)" -accel tcg -machine pc -cpu max -m 64 \
            -nodefaults -no-user-config -display none -serial stdio \
            -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$bin/micro" >"$work/took"
        ;;
    *)
        "$bin/measure" 120 "$log" "$popf" run --engine "$2" --memory 64M --debug-exit \
            "$bin/micro" >"$work/took"
        ;;
    esac
    tr -d '\r' <"$log" | awk -v run="$1" -v target="$2" '
        $1 == "micro" && NF == 3 { print run ",micro," target "," $2 ",micro," $3 "," }' >>"$raw"
    grep -q '^micro end' "$log" ||
        note "micro, $2: status $(cut -d ' ' -f 1 "$work/took"): $(tail -n 1 "$log")"
}

# --- boot: whole process, wall clock and peak memory ---

boot() { # RUN KIND TARGET COMMAND...
    run=$1 kind=$2 target=$3
    shift 3
    say "round $run: boot of the $kind-bit guest, $target"
    took=$("$bin/measure" 120 "$log" "$@")
    if [ "${took%% *}" != 0 ]; then
        note "boot of the $kind-bit guest, $target: status ${took%% *}: $(tail -n 1 "$log")"
        return 0
    fi
    echo "$took" | awk -v run="$run" -v kind="$kind" -v t="$target" '{
        print run ",boot" kind "," t ",wall,boot," $2 ","
        print run ",boot" kind "," t ",cpu,boot," $3 ","
        print run ",boot" kind "," t ",rss,boot," $4 / 1024 "," }' >>"$raw"
}
boot_popf() { # RUN KIND TARGET ENGINE OPTION...
    r=$1 k=$2 t=$3 e=$4
    shift 4
    boot "$r" "$k" "$t" "$popf" run --engine "$e" --memory 512M --no-reboot "$@" \
        --kernel "$work/guest-$k/vmlinuz" --initrd "$work/guest-$k/initrd.gz" \
        --append "console=ttyS0 quiet panic=-1 run=true"
}
boot_qemu() { # RUN KIND MACHINE KERNEL APPEND
    boot "$1" "$2" "qemu-${3%%,*}" "$(qemu_of "$2")" -accel tcg -machine "$3" -cpu max -m 512 \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio \
        -kernel "$work/guest-$2/$4" -initrd "$work/guest-$2/initrd.gz" \
        -append "console=ttyS0 quiet panic=-1 reboot=t $5"
}
boots() { # RUN KIND
    for e in $engines; do
        boot_popf "$1" "$2" "$e" "$e"
    done
    if "$popf" run --help | grep -q -e --code-cache; then
        kept=$work/kept-$2
        if [ ! -d "$kept" ]; then
            mkdir "$kept"
            boot_popf 0 "$2" warm-up bt --code-cache "$kept"
        fi
        boot_popf "$1" "$2" bt-kept bt --code-cache "$kept"
    fi
    qemu_of "$2" >/dev/null || return 0
    boot_qemu "$1" "$2" pc vmlinuz run=true
    # microvm cannot power off. On a busy host the kernel fails to calibrate the TSC there, and hangs:
    # so it is told. The 32-bit kernel has no PVH entry.
    [ "$2" = 32 ] || boot_qemu "$1" "$2" microvm,x-option-roms=off vmlinux \
        "tsc_early_khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo) run=reboot -f"
}

# --- rounds ---

: >"$notes"
echo "run,kind,target,case,group,value,check" >"$raw"
ready=
for kind in $kinds; do
    if prepare "$kind"; then
        ready="$ready $kind"
    fi
done
qemu_of 64 >/dev/null || note "QEMU is left out"

run=0
while [ "$run" -lt "$runs" ]; do
    run=$((run + 1))
    for kind in $ready; do
        if has_part programs; then
            for target in native $(targets_of "$kind"); do
                programs "$run" "$kind" "$target" 1 "$cases"
            done
        fi
        if has_part boot; then
            boots "$run" "$kind"
        fi
    done
    case " $ready " in *" 64 "*)
        if has_part smp; then
            for target in native $(targets_of 64); do
                programs "$run" 64 "$target" 2 smp
            done
        fi
        ;;
    esac
    if has_part micro; then
        for target in $(targets_of 64); do
            micro "$run" "$target"
        done
    fi
done

{
    echo "# $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
        "$(getconf _NPROCESSORS_ONLN) CPUs, load $(cut -d ' ' -f 1 /proc/loadavg) at the end"
    ! qemu_of 64 >/dev/null || echo "# $("$(qemu_of 64)" --version | head -n 1)"
    echo "# $runs rounds, $ms ms a case; $("$popf" --version 2>/dev/null | head -n 1)"
} >"$out/machine"
"$top/bench/report.sh" "$out"
