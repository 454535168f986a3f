#!/bin/sh
# A guest whose root writes random values to all that its virtio devices offer: popf must live through
# it, and so must a machine beside it that shares its network.
# hostile.sh ENGINE KIND SECONDS [sanitized [SEED]]
#
# "sanitized": the hostile machine runs in SAN_POPF. Not as it is, in which guests lose vector registers
# (CONTRIBUTING.md), but with x86, cpu and engine of the plain build: in build-san, link
#   cli/popf.p/*.o -fsanitize=address,undefined -Wl,--start-group {cli,vm,base,mem,block,net,share,dev,boot,
#   pv,gdb}/*.a ../build/{x86,cpu,engine}/*.a -lcrypt -ljson-c -lz -lzstd -lslirp -llzma -llz4 -lext2fs -lcom_err
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
engine=$1 kind=$2 seconds=$3 build=${4:-plain} seed=${5:-$$}
name="hostile $engine $kind $build"
have_guest "$name" "$kind" || exit 0
if ! "$here/../../tools/modules.sh" "$kind" virtio_pci virtio_net >"$SCRATCH/modules" 2>"$SCRATCH/log"; then
    skip "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi
root=$SCRATCH/root
mkdir -p "$root/mod" "$SCRATCH/shared"
n=100
while read -r file; do
    cp "$file" "$root/mod/$n-$(basename "$file")"
    n=$((n + 1))
done <"$SCRATCH/modules"
if ! ${CC:-cc} -O1 -static -o "$root/hostile_guest" "$here/hostile_guest.c" 2>"$SCRATCH/log"; then
    not_ok "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi
cat >"$root/neighbour.sh" <<'END'
for m in /mod/*; do
    insmod "$m"
done
ip addr add 10.9.9.1/24 dev eth0
ip link set eth0 up
stty -echo
echo NEIGHBOUR-IS-UP
while read -r line; do
    echo "NEIGHBOUR $line $(seq 1 "$line" | md5sum | cut -c 1-8)"
    [ "$line" != 4242 ] || break
done
END
{
    cat "$GUESTS/$kind/initrd.gz"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1
} >"$SCRATCH/initrd.gz"
head -c 16777216 /dev/urandom >"$SCRATCH/neighbour.raw"
cp "$SCRATCH/neighbour.raw" "$SCRATCH/hostile.raw"
chmod -R a+rwX "$SCRATCH"

# machine POPF LOG SECONDS OPTION... - with what both have
machine() {
    binary=$1 out=$2 limit=$3
    shift 3
    # shellcheck disable=SC2086 # AS_USER is meant to be split
    exec timeout -k 5 $((limit + 30)) $AS_USER "$binary" run -k "$GUESTS/$kind/vmlinuz" \
        -i "$SCRATCH/initrd.gz" --engine "$engine" --no-reboot --timeout "$limit" -m 128M \
        --net "socket:$SCRATCH/wire" "$@" >"$out" 2>&1
}

wait_for() { # LOG WORDS TIMES PID
    tries=0
    until grep -aq "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        if [ $tries -gt "$3" ] || ! kill -0 "$4" 2>/dev/null; then
            return 1
        fi
        sleep 0.1
    done
}

mkfifo "$SCRATCH/in"
neighbour=$SCRATCH/neighbour.log hostile=$SCRATCH/hostile.log
machine "$POPF" "$neighbour" $((seconds + 200)) --disk "$SCRATCH/neighbour.raw,format=raw" \
    -a 'console=ttyS0 quiet run=sh /neighbour.sh' <"$SCRATCH/in" &
beside=$!
exec 3>"$SCRATCH/in"
if ! wait_for "$neighbour" NEIGHBOUR-IS-UP 600 $beside; then
    exec 3>&-
    kill $beside 2>/dev/null
    not_ok "$name" "the machine beside it did not come up: $(tail_of "$neighbour")"
    exit 0
fi

tested=$POPF
[ "$build" != sanitized ] || tested=$SAN_POPF
machine "$tested" "$hostile" $((seconds + 120)) --disk "$SCRATCH/hostile.raw,format=raw" \
    --share "$SCRATCH/shared:shared" \
    --share "$SCRATCH/shared:more:virtiofs" --vsock "$SCRATCH/vsock" --port "test=$SCRATCH/port" \
    --rng on --balloon on -a "console=ttyS0 quiet panic=-1 run=/hostile_guest $seconds $seed" </dev/null &
pid=$!
wait $pid
status=$?

echo 4242 >&3
wait_for "$neighbour" 'NEIGHBOUR 4242' 300 $beside
alive=$(tr -d '\r' <"$neighbour" | grep -a '^NEIGHBOUR 4242')
exec 3>&-
wait $beside
ended=$?
wanted="NEIGHBOUR 4242 $(seq 1 4242 | md5sum | cut -c 1-8)"
operations=$(tr -d '\r' <"$hostile" | sed -n 's/.*HOSTILE \([0-9]*\) operations.*/\1/p' | tail -n 1)

# The guest may do itself whatever harm it likes: power off, panic, a triple fault, hang until its time is up.
if grep -aEq 'Sanitizer|runtime error|Assertion' "$hostile"; then
    not_ok "$name" "seed $seed: $(grep -aE 'Sanitizer|runtime error|Assertion' "$hostile" | head -n 1)"
elif [ $status != 0 ] && [ $status != 1 ] && [ $status != 124 ]; then
    not_ok "$name" "seed $seed: popf ended with status $status: $(tail_of "$hostile")"
elif [ "${operations:-0}" -lt 1000 ]; then
    not_ok "$name" "seed $seed: nothing was done: $(tail_of "$hostile")"
elif [ "$alive" != "$wanted" ] || [ $ended != 0 ]; then
    not_ok "$name" "seed $seed: the machine beside it: status $ended, \"$alive\": $(tail_of "$neighbour")"
else
    ok "$name"
    echo "# $operations operations, status $status" >&2
fi
