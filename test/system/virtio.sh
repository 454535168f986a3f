#!/bin/sh
# Virtio devices with Linux's drivers: virtio.sh ENGINE KIND WAY
#
# WAY is modern (MSI-X), nomsi (the same through INTx) or legacy (the interface of before 1.0). The
# guest talks through its virtio console: it reads a line, random numbers, and tells which interrupts
# came. Afterwards memory that it has freed is back with the host.
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
engine=$1 kind=$2 way=$3
name="virtio $engine $kind $way"
have_guest "$name" "$kind" || exit 0

if ! "$here/../../tools/modules.sh" "$kind" virtio_pci virtio-rng virtio_console virtio_balloon \
    >"$SCRATCH/modules" 2>"$SCRATCH/log"; then
    skip "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi

root=$SCRATCH/root
mkdir -p "$root/mod"
n=100
while read -r file; do
    cp "$file" "$root/mod/$n-$(basename "$file")"
    n=$((n + 1))
done <"$SCRATCH/modules"
cat >"$root/test.sh" <<'END'
read -r cmdline </proc/cmdline
for m in /mod/*; do
    case "$m $cmdline" in
    *virtio_pci.ko*way=legacy*) insmod "$m" force_legacy=1 ;;
    *) insmod "$m" ;;
    esac
done
exec <>/dev/hvc0 >&0 2>&1
stty -echo
echo VIRTIO-ASKS
read -r line
echo "VIRTIO-LINE $line"
echo "VIRTIO-RANDOM $(head -c 3000 /dev/hwrng | wc -c)"
for d in /sys/bus/virtio/devices/*; do
    read -r features <"$d/features"
    read -r status <"$d/status"
    echo "VIRTIO-DEVICE $(echo "$features" | cut -c 33) $status"
done
sed -n 's/^ *[0-9]*: *\([0-9]*\) .*\(MSI\|APIC\).*virtio0.*/VIRTIO-IRQ \2 \1/p' /proc/interrupts
mount -t tmpfs tmp /tmp
dd if=/dev/zero of=/tmp/big bs=1M count=250 2>/dev/null
rm /tmp/big
sleep 7
echo VIRTIO-IS-DONE
sleep 1
END
{
    cat "$GUESTS/$kind/initrd.gz"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1
} >"$SCRATCH/initrd.gz"
chmod -R a+rX "$SCRATCH"

append="console=ttyS0 quiet way=$way run=sh /test.sh"
[ "$way" != nomsi ] || append="pci=nomsi $append"
log=$SCRATCH/out
status=0
# shellcheck disable=SC2086 # AS_USER is meant to be split
echo "from the host" | timeout -k 5 100 $AS_USER "$POPF" run -k "$GUESTS/$kind/vmlinuz" \
    -i "$SCRATCH/initrd.gz" --engine "$engine" --no-reboot --net none --console virtio --stats \
    -m 512M -a "$append" >"$log" 2>"$log.err" || status=$?

said() {
    tr -d '\r' <"$log" | grep -q "$1"
}
memory=$(sed -n 's/^memory .* \([0-9]*\) MiB touched.*/\1/p' "$log.err")
version=1 irq=MSI
[ "$way" != legacy ] || version=0
[ "$way" != nomsi ] || irq=APIC
if [ $status != 0 ]; then
    not_ok "$name" "status $status: $(tail_of "$log.err")"
elif ! said '^VIRTIO-IS-DONE'; then
    not_ok "$name" "it did not come to its end: $(tail_of "$log")"
elif ! said '^VIRTIO-LINE from the host'; then
    not_ok "$name" "the console's input is missing"
elif ! said '^VIRTIO-RANDOM 3000'; then
    not_ok "$name" "no random numbers: $(grep VIRTIO-RANDOM "$log")"
elif [ "$(tr -d '\r' <"$log" | grep -c "^VIRTIO-DEVICE $version 0x0000000[7f]")" != 3 ]; then
    not_ok "$name" "not three devices that work: $(grep VIRTIO-DEVICE "$log" | tr '\r\n' ' ')"
elif ! said "^VIRTIO-IRQ $irq [1-9]"; then
    not_ok "$name" "no interrupts: $(grep VIRTIO-IRQ "$log" | tr '\r\n' ' ')"
elif [ "$kind" = cloud ] && [ "$way" != legacy ] && [ "${memory:-999}" -gt 200 ]; then
    not_ok "$name" "$memory MiB are still held by the host: the guest has freed 250"
else
    ok "$name"
fi
