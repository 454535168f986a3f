#!/bin/sh
# A stock gdb at the debugger's port: gdb.sh ENGINE KIND. It stops in start_kernel, steps, watches a
# variable of the kernel, stops in a user program, looks at both CPUs and lets the machine go to its
# end. Another one comes and goes while a machine runs.
set -u
. "$(dirname "$0")/lib.sh"
engine=$1 kind=$2
name="gdb $engine $kind"
if ! command -v gdb >/dev/null 2>&1; then
    skip "$name" "gdb is not installed"
    exit 0
fi
have_guest "$name" "$kind" || exit 0
guest="-e $engine -c 2 -k $GUESTS/$kind/vmlinuz -i $GUESTS/$kind/initrd.gz --no-reboot"

# Where things are: Debian's System.map does not say, the running kernel does.
log=$SCRATCH/symbols.log
# shellcheck disable=SC2016,SC2086
timeout -k 5 60 $AS_USER "$POPF" run $guest -a 'console=ttyS0 quiet nokaslr run=grep -E " (start_kernel|system_state)$" /proc/kallsyms; od -An -tx4 -j24 -N4 /bin/busybox' \
    </dev/null 2>&1 | tr -d '\r' >"$log"
start=$(sed -n 's/^\([0-9a-f]*\) . start_kernel$/\1/p' "$log")
state=$(sed -n 's/^\([0-9a-f]*\) . system_state$/\1/p' "$log")
entry=$(sed -n 's/^ *\([0-9a-f]\{8\}\) *$/\1/p' "$log")
if [ -z "$start" ] || [ -z "$entry" ]; then
    not_ok "$name" "no symbols: $(tail_of "$log")"
    exit 0
fi
# Not every kernel lists its variables; the stack of start_kernel has some that change as well.
if [ -n "$state" ]; then
    first=1 second=2 variable="*(int *)0x$state"
else
    first='-?[0-9]+' second='-?[0-9]+' variable='*(int *)$stack'
fi

# start_popf WAIT COMMAND - in the background; $port is where gdb finds it
start_popf() {
    log=$SCRATCH/popf.log
    # shellcheck disable=SC2086
    timeout -k 5 100 $AS_USER "$POPF" run $guest --gdb "0$1" \
        -a "console=ttyS0 quiet nokaslr run=$2" </dev/null >"$log" 2>&1 &
    pid=$!
    port=
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        sleep 0.2
        port=$(sed -n 's/.*target remote \([0-9.:]*[0-9]\).*/\1/p' "$log")
        [ -n "$port" ] && return 0
    done
    not_ok "$name" "popf does not say where gdb can connect: $(tail_of "$log")"
    kill $pid
    exit 0
}

# run_gdb - commands come from standard input; what gdb says is in $out
run_gdb() {
    out=$SCRATCH/gdb.out
    cat >"$SCRATCH/gdb.in"
    HOME=$SCRATCH timeout -k 5 90 gdb -nx -batch -ex 'set pagination off' -ex 'set confirm off' \
        -ex 'set tcp connect-timeout 5' -ex "target remote $port" -x "$SCRATCH/gdb.in" \
        </dev/null >"$out" 2>&1
}

# expect WHAT REGEX - after a gdb session
expect() {
    if grep -Eq "$2" "$out"; then
        ok "$name: $1"
    else
        not_ok "$name: $1" "no \"$2\": $(tail_of "$out")"
    fi
}

status=0
start_popf ,wait 'echo GUEST-DONE'
run_gdb <<END
break *0x$start
continue
printf "AT-START %d %d\n", \$_thread, (unsigned long)\$pc == 0x$start
stepi
stepi
printf "STEPPED %d\n", (unsigned long)\$pc != 0x$start
monitor translate 0x$start
monitor phys 0 64
delete
set var \$stack = \$sp - 64
watch $variable
continue
printf "FIRST %d\n", $variable
continue
printf "SECOND %d\n", $variable
delete
break *0x$entry
continue
printf "IN-USER %d %d\n", \$pc == 0x$entry, \$cs & 3
info threads
thread apply all printf "PAGING %d\n", (\$cr0 >> 31) & 1
p \$xmm0
p/x \$mxcsr
set var *(int *)(\$sp - 8) = 0x12345678
x/1xw \$sp - 8
delete
stepi
continue
END
wait $pid || status=$?
expect "break in start_kernel" '^AT-START 1 1'
expect "step" '^STEPPED 1'
expect "monitor translate" 'is guest-physical 0x'
expect "monitor phys" '^000000000030:( [0-9a-f]{2}){16}'
expect "watch, first change" "^FIRST $first\$"
expect "watch, second change" "^SECOND $second\$"
expect "break in a user program" '^IN-USER 1 3'
expect "threads" 'CPU 1: (running|halted)'
if [ "$(grep -c '^PAGING 1' "$out")" = 2 ]; then
    ok "$name: registers of every CPU"
else
    not_ok "$name: registers of every CPU" "$(grep PAGING "$out" | tr '\n' ' ')"
fi
expect "vector registers" 'v4_float'
expect "mxcsr" '= 0x1f80'
expect "writing memory" '0x12345678'
expect "the end" 'exited normally'
if [ $status = 0 ] && grep -q GUEST-DONE "$log"; then
    ok "$name: the guest runs on"
else
    not_ok "$name: the guest runs on" "status $status: $(tail_of "$log")"
fi

# One comes and goes, another one stays.
status=0
start_popf '' 'while :; do :; done'
sleep 1.5
run_gdb <<END
info threads
break *0x$start
detach
END
expect "attach" 'CPU 0: (running|halted)'
expect "detach" 'detached'
run_gdb <<END
monitor info
monitor reset
maintenance flush register-cache
stepi
printf "AGAIN\n"
monitor quit
END
expect "monitor info" "engine $engine, 2 CPUs"
expect "monitor reset" 'has been reset'
expect "attach again" '^AGAIN'
wait $pid || status=$?
[ $status = 0 ] && ok "$name: monitor quit" || not_ok "$name: monitor quit" "status $status"
