#!/bin/sh
# qemu_img.sh POPF SCRIBBLE - images that popf writes, as QEMU's tools see them, and the other way
# round. Prints TAP.
set -u
popf=$(realpath "$1") scribble=$(realpath "$2")
if ! command -v qemu-img >/dev/null 2>&1 || ! command -v qemu-io >/dev/null 2>&1; then
    echo "1..0 # SKIP qemu-img is not installed (package qemu-utils)"
    exit 0
fi
base=/var/tmp
[ -w /dev/shm ] && base=/dev/shm
dir=$(mktemp -d "$base/popf-qemu-img.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
n=0

# test NAME COMMAND... - one line of TAP
check() {
    name=$1
    shift
    n=$((n + 1))
    if "$@" >out 2>&1; then
        echo "ok $n - $name"
    else
        sed 's/^/# /' out
        echo "not ok $n - $name"
    fi
}

# A disk with holes, zeros, text and noise; its size is odd.
make_disk() {
    truncate -s 9438720 disk.raw
    head -c 700000 /dev/urandom | dd of=disk.raw conv=notrunc bs=4096 seek=3 status=none
    yes "all work and no play" | head -c 2000000 | dd of=disk.raw conv=notrunc bs=4096 seek=500 status=none
    head -c 5000 /dev/urandom | dd of=disk.raw conv=notrunc bs=512 seek=18400 status=none
}

same_as() { # IMAGE RAW
    qemu-img check "$1" && qemu-img compare "$1" "$2" && qemu-img convert -O raw "$1" back.raw &&
        cmp back.raw "$2"
}

popf_writes() { # options
    rm -f a.qcow2
    # shellcheck disable=SC2086
    "$popf" image convert $1 disk.raw a.qcow2 && same_as a.qcow2 disk.raw &&
        "$popf" image check a.qcow2
}

popf_reads() { # options of qemu-img
    rm -f a.qcow2 b.raw
    # shellcheck disable=SC2086
    qemu-img convert -O qcow2 $1 disk.raw a.qcow2 && "$popf" image check a.qcow2 &&
        "$popf" image convert -O raw a.qcow2 b.raw && cmp b.raw disk.raw
}

scribbled() { # options of qemu-img create
    rm -f a.qcow2
    # shellcheck disable=SC2086
    qemu-img convert -O qcow2 $1 disk.raw a.qcow2 && "$scribble" a.qcow2 b.raw 42 300 &&
        same_as a.qcow2 b.raw
}

below_qemu() {
    rm -f ./*.qcow2 b.raw c.raw
    qemu-img convert -O qcow2 -c disk.raw base.qcow2 &&
        qemu-img create -f qcow2 -F qcow2 -b base.qcow2 a.qcow2 12M &&
        qemu-io -c "write -P 7 70000 300000" -c "write -z 1M 500k" -c "discard 2M 256k" a.qcow2 &&
        "$popf" image convert -O raw a.qcow2 b.raw && qemu-img convert -O raw a.qcow2 c.raw &&
        cmp b.raw c.raw && "$scribble" a.qcow2 b.raw 7 200 && same_as a.qcow2 b.raw
}

below_popf() {
    rm -f ./*.qcow2 b.raw
    "$popf" image create --force -f qcow2 -b disk.raw --backing-format raw a.qcow2 &&
        qemu-io -c "write -P 7 70000 300000" -c "write -z 1M 500k" a.qcow2 &&
        "$scribble" a.qcow2 b.raw 8 200 && same_as a.qcow2 b.raw
}

converted_onto_backing() {
    rm -f ./*.qcow2 b.raw
    "$popf" image convert disk.raw base.qcow2 &&
        cp disk.raw new.raw && dd if=/dev/urandom of=new.raw bs=4096 seek=100 count=20 conv=notrunc status=none &&
        dd if=/dev/zero of=new.raw bs=4096 seek=510 count=20 conv=notrunc status=none &&
        "$popf" image convert -b base.qcow2 new.raw a.qcow2 && same_as a.qcow2 new.raw &&
        [ "$(stat -c %s a.qcow2)" -lt 1000000 ]
}

snapshots() {
    rm -f a.qcow2 b.raw
    qemu-img convert -O qcow2 disk.raw a.qcow2 && qemu-img snapshot -c first a.qcow2 &&
        qemu-io -c "write -P 9 0 1M" a.qcow2 && "$scribble" a.qcow2 b.raw 5 300 &&
        same_as a.qcow2 b.raw && rm -f c.raw &&
        "$popf" image convert --snapshot first -O raw a.qcow2 c.raw && cmp c.raw disk.raw &&
        "$popf" image info a.qcow2 | grep -q 'snapshot:.*"first"' &&
        qemu-img snapshot -a first a.qcow2 && same_as a.qcow2 disk.raw &&
        "$popf" image check a.qcow2
}

resized() {
    rm -f a.qcow2 b.raw
    "$popf" image convert --cluster-size 512 disk.raw a.qcow2 &&
        "$popf" image resize a.qcow2 +40M && qemu-img check a.qcow2 &&
        "$scribble" a.qcow2 b.raw 6 300 && same_as a.qcow2 b.raw &&
        "$popf" image resize --shrink a.qcow2 -45M && qemu-img check a.qcow2 &&
        truncate -s -47185920 b.raw && same_as a.qcow2 b.raw
}

locked() {
    rm -f a.qcow2
    "$popf" image create a.qcow2 10M && mkfifo fifo || return 1
    qemu-io a.qcow2 <fifo >/dev/null &
    exec 3>fifo
    pid=$!
    echo "read 0 512" >&3
    sleep 0.5
    "$popf" image resize a.qcow2 20M 2>why
    status=$?
    exec 3>&-
    wait $pid
    cat why
    [ $status = 1 ] && grep -q 'a.qcow2 is in use' why && "$popf" image resize a.qcow2 20M
}

make_disk
for o in "" "--compat 2" "--cluster-size 4K" "--cluster-size 512" "--cluster-size 2M" "-c" \
    "-c --compression zstd" "-c --cluster-size 4K" "--lazy-refcounts"; do
    check "popf image convert $o" popf_writes "$o"
done
for o in "" "-c" "-c -o compression_type=zstd" "-o compat=0.10" "-o cluster_size=4k -c" \
    "-o refcount_bits=1" "-o refcount_bits=64" "-o preallocation=metadata" "-S 0"; do
    check "qemu-img convert $o" popf_reads "$o"
done
for o in "" "-c" "-c -o compression_type=zstd,cluster_size=8k" "-o compat=0.10" \
    "-o cluster_size=512" "-o refcount_bits=8" "-o lazy_refcounts=on" "-o preallocation=metadata"; do
    check "popf writes into: qemu-img convert $o" scribbled "$o"
done
check "a backing chain by qemu-img" below_qemu
check "a backing chain by popf" below_popf
check "convert keeps to what differs" converted_onto_backing
check "snapshots inside" snapshots
check "resize" resized
check "locks of QEMU" locked
echo "1..$n"
