#!/bin/sh
# Memory that a guest has freed goes back to the host: at least 90 % of it within 10 seconds, by
# free-page reporting and by the balloon. memory.sh ENGINE KIND
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
engine=$1 kind=$2
name="memory $engine $kind"
have_guest "$name" "$kind" || exit 0
if ! "$here/../../tools/modules.sh" "$kind" virtio_pci virtio_balloon >"$SCRATCH/modules" 2>"$SCRATCH/log"; then
    skip "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi
if ! ${CC:-cc} -O1 -o "$SCRATCH/peer" "$here/memory_peer.c" 2>"$SCRATCH/log"; then
    skip "$name" "no C compiler: $(tail_of "$SCRATCH/log")"
    exit 0
fi
home=$SCRATCH/home
root=$SCRATCH/root
mkdir -p "$home/run" "$root/mod"
chmod 777 "$home" "$home/run"
export HOME="$home" XDG_RUNTIME_DIR="$home/run" XDG_STATE_HOME="$home/state"
n=100
while read -r file; do
    cp "$file" "$root/mod/$n-$(basename "$file")"
    n=$((n + 1))
done <"$SCRATCH/modules"
# Fills and frees 500 MiB when something is typed.
cat >"$root/test.sh" <<'END'
for m in /mod/*; do
    insmod "$m"
done
mount -t tmpfs -o size=600M tmp /tmp
stty -echo
echo MEMORY-IS-READY
while read -r line; do
    case $line in
    fill) dd if=/dev/zero of=/tmp/big bs=1M count=500 2>/dev/null ;;
    free) rm /tmp/big ;;
    esac
    echo "MEMORY-DID $line"
done
END
{
    cat "$GUESTS/$kind/initrd.gz"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1
} >"$SCRATCH/initrd.gz"
chmod -R a+rX "$SCRATCH"

mkfifo "$SCRATCH/in"
# shellcheck disable=SC2086 # AS_USER is meant to be split
timeout -k 5 300 $AS_USER "$POPF" run --name memory -k "$GUESTS/$kind/vmlinuz" -i "$SCRATCH/initrd.gz" \
    --engine "$engine" --no-reboot --net none -m 1G -a "console=ttyS0 quiet run=sh /test.sh" \
    <"$SCRATCH/in" >"$SCRATCH/out" 2>"$SCRATCH/err" &
pid=$!
exec 3>"$SCRATCH/in"
trap 'exec 3>&-; kill $pid 2>/dev/null; wait $pid 2>/dev/null' EXIT

give_up() {
    not_ok "$name" "$1"
    exit 0
}

wait_for() {
    tries=0
    until grep -q "$1" "$SCRATCH/out"; do
        tries=$((tries + 1))
        if [ $tries -gt 900 ] || ! kill -0 $pid 2>/dev/null; then
            give_up "no $1: $(tail_of "$SCRATCH/out") $(tail_of "$SCRATCH/err")"
        fi
        sleep 0.1
    done
}

ask() {
    # shellcheck disable=SC2086
    $AS_USER "$SCRATCH/peer" "$home/run/popf/memory/control" "$1" 2>&1
}

resident() { # MiB
    ask '{"cmd":"status"}' | sed -n 's/.*"resident": *\([0-9]*\).*/\1/p' | awk '{ printf "%d\n", $1 / 1048576 }'
}

do_in_guest() {
    : >"$SCRATCH/out"
    echo "$1" >&3
    wait_for "MEMORY-DID $1"
}

# returned NAME FULL FREED - waits until 90 % of what was freed, of that much, is back
returned() {
    limit=$(($2 - $3 * 9 / 10))
    tries=0
    until now=$(resident) && [ "${now:-9999}" -le "$limit" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 100 ]; then
            not_ok "$name: $1" "$3 MiB were freed; $2 MiB were held before, ${now:-?} after 10 s"
            return
        fi
        sleep 0.1
    done
    ok "$name: $1"
    echo "# $1: $2 to $now MiB, $3 freed, after $((tries / 10)).$((tries % 10)) s" >&2
}

wait_for MEMORY-IS-READY
before=$(resident)
do_in_guest fill
full=$(resident)
[ $((full - ${before:-9999})) -ge 450 ] || give_up "500 MiB were filled, but it is ${before:-?} and $full MiB"
do_in_guest free
returned "free-page reporting" "$full" 500

# The balloon takes what the guest has free, and leaves it enough to go on with.
case $(ask '{"cmd":"balloon","bytes":1073741824}') in
*true*) ;;
*) give_up "the balloon is refused: $(ask '{"cmd":"balloon","bytes":1073741824}')" ;;
esac
do_in_guest fill
full=$(resident)
do_in_guest free
ask '{"cmd":"balloon","bytes":268435456}' >/dev/null
returned "balloon" "$full" 500
ask '{"cmd":"balloon","bytes":1073741824}' >/dev/null
sleep 1
do_in_guest fill # it has its memory again
if [ "$(resident)" -ge 500 ]; then
    ok "$name: memory is there again"
else
    not_ok "$name: memory is there again" "$(resident) MiB after 500 were written"
fi
