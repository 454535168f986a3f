#!/bin/sh
# Machines by name: in the background, listed, attached to, stopped, killed, and gone without a
# trace when their process is. lifecycle.sh [ENGINE]
set -u
. "$(dirname "$0")/lib.sh"
engine=${1:-bt}
have_guest "lifecycle" cloud || exit 0

home=$SCRATCH/home
mkdir -p "$home/run"
chmod 777 "$home" "$home/run"
export HOME="$home" XDG_RUNTIME_DIR="$home/run" XDG_STATE_HOME="$home/state"
dir=$home/run/popf
log=$SCRATCH/log

# popf COMMAND... - with a limit, as the user without privileges.
popf() {
    # shellcheck disable=SC2086 # AS_USER is meant to be split
    timeout -k 5 60 $AS_USER "$POPF" "$@"
}
start() {
    popf run -d --engine "$engine" -k "$GUESTS/cloud/vmlinuz" -i "$GUESTS/cloud/initrd.gz" \
        --net none -a "console=ttyS0 quiet" "$@"
}
# want NAME STATUS COMMAND... - the command ends so, and its output is in $log.
want() {
    name=$1 wanted=$2
    shift 2
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" = "$wanted" ]; then
        ok "lifecycle: $name"
    else
        not_ok "lifecycle: $name" "status $status: $(tail_of "$log")"
        return 1
    fi
}
# said NAME PATTERN - about the last output.
said() {
    if grep -q -- "$2" "$log"; then
        ok "lifecycle: $1"
    else
        not_ok "lifecycle: $1" "no \"$2\" in: $(tail_of "$log")"
    fi
}
until_said() {
    n=0
    until popf logs one 2>/dev/null | grep -q -- "$1"; do
        n=$((n + 1))
        [ $n -lt 400 ] || return 1
        sleep 0.1
    done
}
trap 'popf kill one two >/dev/null 2>&1' EXIT

want "nothing runs" 0 popf ps
want "start" 0 start --name one
want "ps" 0 popf ps
said "ps shows it" "^one  *running .* vmlinuz$"
want "ps --json" 0 popf ps --json
said "ps --json shows it" '"name":"one",.*"state":"running"'
want "a name is used once" 1 start --name one
said "the clash is told" "a machine one is running already"
want "a name that cannot be one" 1 start --name a/b
want "a start that fails" 1 popf run -d --name two -k /nonexistent
said "its reason is told" "/nonexistent"
if [ -e "$dir/two" ] || [ -e "$home/state/popf/two" ]; then
    not_ok "lifecycle: it leaves nothing" "$dir/two is there"
else
    ok "lifecycle: it leaves nothing"
fi
# shellcheck disable=SC2012 # one name that is known
case $(ls -ld "$dir/one" | cut -c 1-10) in
drwx------) ok "lifecycle: its folder is private" ;;
*) not_ok "lifecycle: its folder is private" "$(ls -ld "$dir/one")" ;;
esac

if until_said "Welcome to popf"; then
    ok "lifecycle: logs"
else
    not_ok "lifecycle: logs" "$(popf logs one 2>&1 | tail -n 1)"
fi
(
    sleep 0.5
    # shellcheck disable=SC2016 # for the guest
    echo 'echo said-$((6 * 7))'
    n=0
    until grep -q said-42 "$SCRATCH/console" 2>/dev/null || [ $n -gt 100 ]; do
        n=$((n + 1))
        sleep 0.1
    done
    echo poweroff
) | popf console one >"$SCRATCH/console" 2>&1
if grep -q said-42 "$SCRATCH/console"; then
    ok "lifecycle: console, there and back"
else
    not_ok "lifecycle: console, there and back" "$(tail_of "$SCRATCH/console")"
fi
n=0
while [ -e "$dir/one" ] && [ $n -lt 100 ]; do
    n=$((n + 1))
    sleep 0.1
done
want "ps after its end" 0 popf ps -a
said "how it ended" "^one  *ended .* the guest switched itself off"
want "rm" 0 popf rm one
want "rm again" 1 popf rm one
want "stop without a machine" 1 popf stop one
want "exec without a machine" 125 popf exec one true

# A guest without ACPI's daemon does not hear the button: it is switched off.
want "start again" 0 start --name one
want "stop, in time" 0 popf stop -t 1 one
said "it is told" "did not switch itself off"
want "start once more" 0 start --name one
want "kill" 0 popf kill one
[ ! -e "$dir/one" ] && ok "lifecycle: nothing is left" ||
    not_ok "lifecycle: nothing is left" "$dir/one is there"

# Killed hard, it leaves files, which the next look removes.
want "start, to be killed" 0 start --name one
pid=$(popf ps --json | sed -n 's/.*"name":"one","pid":\([0-9]*\).*/\1/p')
kill -9 "$pid"
n=0
while [ -e "/proc/$pid" ] && [ $n -lt 100 ]; do
    n=$((n + 1))
    sleep 0.1
done
want "ps after SIGKILL" 0 popf ps -a
said "it is told that popf was killed" "^one  *ended .*popf was killed"
[ ! -e "$dir/one" ] && ok "lifecycle: what it left is swept" ||
    not_ok "lifecycle: what it left is swept" "$dir/one is there"

# A machine file.
cat >"$home/two.toml" <<END
kernel = "$GUESTS/cloud/vmlinuz"
initrd = "$GUESTS/cloud/initrd.gz"
append = "console=ttyS0 quiet"
engine = "$engine"
net = "none"
detach = true
memory = 268435456 # bytes
cpus = 2
END
want "a machine file" 0 popf run "$home/two.toml"
want "its machine" 0 popf ps --json
said "has what the file says" '"name":"two",.*"cpus":2,"memory":268435456'
want "its end" 0 popf kill two
[ ! -e "$dir/two" ] && ok "lifecycle: nothing of it is left" ||
    not_ok "lifecycle: nothing of it is left" "$dir/two is there"
want "its rm" 0 popf rm two
echo "memroy = 1" >"$home/bad.toml"
want "a wrong machine file" 2 popf run "$home/bad.toml"
said "is told with its line" 'bad.toml:1: unknown key "memroy"'
