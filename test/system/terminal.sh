#!/bin/sh
# The command line and the terminal: pipes, no terminal, raw mode and back, signals, time-out.
set -u
. "$(dirname "$0")/lib.sh"
have_guest "terminal" cloud || exit 0
guest="-k $GUESTS/cloud/vmlinuz -i $GUESTS/cloud/initrd.gz"
limit="timeout -k 5 120"

# Piped input reaches the shell, however early it comes, and its end ends nothing.
log=$SCRATCH/pipe.log
status=0
printf 'echo hi-$((40+2))\npoweroff\n' |
    $limit $AS_USER "$POPF" run $guest -a "console=ttyS0 quiet" >"$log" 2>&1 || status=$?
if [ $status = 0 ] && tr -d '\r' <"$log" | grep -qx 'hi-42'; then
    ok "piped input"
else
    not_ok "piped input" "status $status: $(tail_of "$log")"
fi

# A long input is neither lost nor mixed up.
log=$SCRATCH/flood.log
status=0
{
    echo 'stty -echo; n=0; while read -r x && [ "$x" != end ]; do n=$((n + x)); done; echo "sum $n"; poweroff'
    i=0
    while [ $i -lt 300 ]; do
        i=$((i + 1))
        echo $i
    done
    echo end
} | $limit $AS_USER "$POPF" run $guest -a "console=ttyS0 quiet" >"$log" 2>&1 || status=$?
if [ $status = 0 ] && tr -d '\r' <"$log" | grep -q 'sum 45150'; then
    ok "long piped input"
else
    not_ok "long piped input" "status $status: $(tail_of "$log")"
fi

# Nothing at all is open.
status=0
$limit $AS_USER "$POPF" run $guest -a "console=ttyS0 quiet run=true" <&- >&- 2>&- || status=$?
[ $status = 0 ] && ok "no descriptors" || not_ok "no descriptors" "status $status"

# The reader of our output goes away.
log=$SCRATCH/sigpipe.log
status=0
{ $limit $AS_USER "$POPF" run $guest -a "console=ttyS0" 2>"$log"; echo $? >"$SCRATCH/sigpipe"; } |
    head -n 1 >/dev/null
status=$(cat "$SCRATCH/sigpipe")
if [ "$status" = 1 ] && grep -q "cannot write the guest's output" "$log"; then
    ok "closed pipe"
else
    not_ok "closed pipe" "status $status: $(tail_of "$log")"
fi

# --timeout
status=0
$AS_USER "$POPF" run $guest --timeout 1 -a "console=ttyS0 quiet run=sleep 1000" </dev/null \
    >/dev/null 2>&1 || status=$?
[ $status = 124 ] && ok "time-out" || not_ok "time-out" "status $status"

# Signals end it, and are seen to have done so. (A shell without job control starts background
# commands with SIGINT ignored, nohup everything with SIGHUP: hence env.)
for sig in TERM INT HUP; do
    rm -f "$SCRATCH/pid"
    sh -c 'echo $$ >"$1"; shift; exec env --default-signal=INT,HUP "$@"' sh "$SCRATCH/pid" "$POPF" run \
        $guest --timeout 30 -a "console=ttyS0 quiet run=sleep 1000" </dev/null >/dev/null 2>&1 &
    sleep 1
    kill -s $sig "$(cat "$SCRATCH/pid")"
    status=0
    wait $! 2>/dev/null || status=$?
    [ $status -gt 128 ] && ok "SIG$sig" || not_ok "SIG$sig" "status $status"
done

# On a terminal: Ctrl-A X leaves, and the settings are as before; also after a kill -9.
if ! command -v script >/dev/null 2>&1; then
    skip "terminal modes" "script(1) is not installed"
    exit 0
fi
log=$SCRATCH/tty.log
cat >"$SCRATCH/tty.sh" <<END
stty -g >$SCRATCH/before
"$POPF" run $guest -a "console=ttyS0 quiet run=sleep 1000"
echo status \$? >$SCRATCH/status
stty -g >$SCRATCH/after
END
{ sleep 3; printf '\001h'; sleep 1; printf '\001x'; sleep 1; } |
    timeout -k 5 60 script -qec "sh $SCRATCH/tty.sh" /dev/null >"$log" 2>&1
if ! cmp -s "$SCRATCH/before" "$SCRATCH/after"; then
    not_ok "Ctrl-A X" "the terminal's settings did not come back"
elif ! grep -q 'Ctrl-A X' "$log" || ! grep -q 'status 0' "$SCRATCH/status"; then
    not_ok "Ctrl-A X" "$(cat "$SCRATCH/status") $(tail_of "$log")"
else
    ok "Ctrl-A X"
fi

cat >"$SCRATCH/kill.sh" <<END
exec 3<&0
stty -g >$SCRATCH/before
"$POPF" run $guest -a "console=ttyS0 quiet run=sleep 1000" <&3 &
pid=\$!
for i in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1
    stty -g >$SCRATCH/during
    cmp -s $SCRATCH/before $SCRATCH/during || break
done
kill -9 \$pid
wait \$pid
sleep 1
stty -g >$SCRATCH/after
END
sleep 14 | timeout -k 5 60 script -qec "sh $SCRATCH/kill.sh" /dev/null >"$log" 2>&1
if cmp -s "$SCRATCH/before" "$SCRATCH/during"; then
    not_ok "kill -9" "the terminal never was in raw mode"
elif cmp -s "$SCRATCH/before" "$SCRATCH/after"; then
    ok "kill -9"
else
    not_ok "kill -9" "the terminal's settings did not come back"
fi
