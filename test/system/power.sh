#!/bin/sh
# Power cuts: popf is killed while its guest writes, syncs and reports; nothing reported may be lost,
# and image and file system must be whole. power.sh ENGINE KIND FORMAT TIMES
#
# 200 times: POPF=build/cli/popf GUESTS=... SCRATCH=$(mktemp -d) AS_USER= test/system/power.sh bt cloud qcow2 200
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
engine=$1 kind=$2 format=$3 times=$4
name="power $engine $kind $format, $times times"
have_guest "$name" "$kind" || exit 0
if ! command -v mke2fs >/dev/null 2>&1; then
    skip "$name" "mke2fs is not installed"
    exit 0
fi
if ! "$here/../../tools/modules.sh" "$kind" virtio_pci virtio_blk >"$SCRATCH/modules" 2>"$SCRATCH/log"; then
    skip "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi

root=$SCRATCH/root
mkdir -p "$root/mod" "$root/mnt"
n=100
while read -r file; do
    cp "$file" "$root/mod/$n-$(basename "$file")"
    n=$((n + 1))
done <"$SCRATCH/modules"
if ! ${CC:-cc} -O1 -static -o "$root/power_guest" "$here/power_guest.c" 2>"$SCRATCH/log"; then
    not_ok "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi
cat >"$root/test.sh" <<'END'
for m in /mod/*; do
    insmod "$m"
done
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt || echo POWER-FAILED mount
read -r cmdline </proc/cmdline
case $cmdline in
*power=verify*)
    /power_guest /mnt/file verify
    umount /mnt
    ;;
*) /power_guest /mnt/file ;;
esac
END
{
    cat "$GUESTS/$kind/initrd.gz"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1
} >"$SCRATCH/initrd.gz"

raw=$SCRATCH/disk.raw
if ! mke2fs -q -F -t ext4 "$raw" 64M >"$SCRATCH/log" 2>&1; then
    not_ok "$name" "mke2fs: $(tail_of "$SCRATCH/log")"
    exit 0
fi
disk=$raw
if [ "$format" != raw ]; then
    disk=$SCRATCH/disk.qcow2
    # Small clusters: as much metadata as possible.
    "$POPF" image convert -q --force --cluster-size 4K "$raw" "$disk" >"$SCRATCH/log" 2>&1 || {
        not_ok "$name" "$(tail_of "$SCRATCH/log")"
        exit 0
    }
fi
chmod -R a+rwX "$SCRATCH"

start() { # more of the command line
    : >"$SCRATCH/out" # now: the shell in the background may take its time
    # shellcheck disable=SC2086 # AS_USER is meant to be split
    $AS_USER "$POPF" run -k "$GUESTS/$kind/vmlinuz" -i "$SCRATCH/initrd.gz" --engine "$engine" \
        --no-reboot --net none --timeout 100 --disk "$disk,format=$format" \
        -a "console=ttyS0 quiet $1 run=sh /test.sh" </dev/null >"$SCRATCH/out" 2>&1 &
    pid=$!
}

# number WORD - the last number that the guest reported with it; a line cut short does not count
number() {
    tr -d '\r' <"$SCRATCH/out" | sed -n "s/.*$1 \([0-9][0-9]*\)\$/\1/p" | sed '$!d'
}

whole() { # of the output, lines that are complete
    tr -d '\r' <"$SCRATCH/out" | sed '$d' >"$SCRATCH/lines"
    sed -n "s/.*POWER-WROTE \([0-9][0-9]*\)\$/\1/p" "$SCRATCH/lines" | tail -n 1
}

image_is_whole() {
    [ "$format" = raw ] && return 0
    "$POPF" image check "$disk" >"$SCRATCH/check" 2>&1
    case $? in
    0 | 3) ;;
    *) return 1 ;;
    esac
    command -v qemu-img >/dev/null 2>&1 || return 0
    qemu-img check "$disk" >"$SCRATCH/check" 2>&1
    case $? in
    0 | 3) return 0 ;;
    *) return 1 ;;
    esac
}

last=0 i=0
while [ $i -lt "$times" ]; do
    i=$((i + 1))
    start power=write
    tries=0
    until [ -n "$(number POWER-WROTE)" ] || [ $tries -gt 400 ] || ! kill -0 $pid 2>/dev/null; do
        sleep 0.1
        tries=$((tries + 1))
    done
    # Up to 1.3 seconds, each time another moment.
    sleep "$(awk -v seed="$$$i" 'BEGIN { srand(seed); printf "%.3f", rand() * 1.3 }')"
    if ! kill -9 $pid 2>/dev/null; then
        wait $pid
        not_ok "$name" "cut $i: popf ended by itself, status $?: $(tail_of "$SCRATCH/out")"
        exit 0
    fi
    wait $pid 2>/dev/null
    has=$(number POWER-HAS)
    if grep -q POWER-FAILED "$SCRATCH/out" || [ -z "$has" ] || [ "$has" -lt "$last" ]; then
        not_ok "$name" "cut $i: $last was reported as written, ${has:-nothing} is there: $(grep -a POWER-FAILED "$SCRATCH/out" || tail_of "$SCRATCH/out")"
        exit 0
    fi
    if ! image_is_whole; then
        not_ok "$name" "cut $i: $(tail_of "$SCRATCH/check")"
        exit 0
    fi
    wrote=$(whole)
    last=${wrote:-$has}
done
start power=verify
wait $pid
status=$?
has=$(number POWER-HAS)
[ "$format" = raw ] || "$POPF" image convert -q --force -O raw "$disk" "$raw" >"$SCRATCH/log" 2>&1
if [ $status != 0 ] || [ -z "$has" ] || [ "$has" -lt "$last" ] || grep -q POWER-FAILED "$SCRATCH/out"; then
    not_ok "$name" "at the end: status $status, $last was reported, ${has:-nothing} is there: $(tail_of "$SCRATCH/out")"
elif ! e2fsck -fn "$raw" >"$SCRATCH/log" 2>&1; then
    not_ok "$name" "e2fsck: $(tail_of "$SCRATCH/log")"
else
    ok "$name"
fi
