# test/system/lib.sh - what the system tests share. They are started by ./check with
#   POPF        the popf to test                SAN_POPF  one built with sanitizers
#   GUESTS      a folder with cloud/ amd64/ 686/, each with vmlinuz and initrd.gz (or a file `why`)
#   SCRATCH     a folder of their own
#   AS_USER     words to put before a command so that it runs without any privilege
# and print a line per test: "ok NAME", "not ok NAME # why" or "skip NAME # why".

ok() {
    echo "ok $1"
}

not_ok() {
    echo "not ok $1 # $2"
}

skip() {
    echo "skip $1 # $2"
}

# The last line of a log, for a message.
tail_of() {
    tr -d '\r' <"$1" | grep -v '^ *$' | tail -n 1 | cut -c 1-200
}

# have_guest NAME KIND - or says that NAME is skipped.
have_guest() {
    [ -f "$GUESTS/$2/vmlinuz" ] && return 0
    skip "$1" "$(cat "$GUESTS/$2/why" 2>/dev/null || echo "no guest $2")"
    return 1
}

# boot NAME KIND SECONDS OPTION... - boots to a script that prints CPUs and machine, and powers off.
boot() {
    name=$1 kind=$2 limit=$3
    shift 3
    have_guest "$name" "$kind" || return 0
    log=$SCRATCH/$(echo "$name" | tr ' /' '__').log
    status=0
    # shellcheck disable=SC2086 # AS_USER is meant to be split
    timeout -k 5 "$limit" $AS_USER "$POPF" run -k "$GUESTS/$kind/vmlinuz" \
        -i "$GUESTS/$kind/initrd.gz" --no-reboot "$@" \
        -a 'console=ttyS0 quiet run=echo POPF-IS-UP $(grep -c ^processor /proc/cpuinfo) $((6*7))' \
        </dev/null >"$log" 2>&1 || status=$?
    if [ $status != 0 ]; then
        not_ok "$name" "status $status: $(tail_of "$log")"
    elif ! tr -d '\r' <"$log" | grep -q "POPF-IS-UP ${cpus:-1} 42"; then
        not_ok "$name" "the script's output is missing: $(tail_of "$log")"
    elif tr -d '\r' <"$log" | grep -Eq 'BUG:|Oops|Call Trace|soft lockup|rcu.*stall'; then
        not_ok "$name" "$(grep -E 'BUG:|Oops|Call Trace|soft lockup|rcu.*stall' "$log" | head -n 1)"
    else
        ok "$name"
    fi
}
