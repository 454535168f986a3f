#!/bin/sh
# `popf run DISK`: a disk is booted with the kernel, initial RAM disk and command line that its own boot
# configuration names; after a reset again; damaged ones are refused with one line.
# disk.sh ENGINE KIND
set -u
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
engine=$1 kind=$2
name="disk $engine $kind"
if ! command -v mke2fs >/dev/null 2>&1; then
    skip "$name" "mke2fs is not installed"
    exit 0
fi
have_guest "$name" "$kind" || exit 0

root=$SCRATCH/root
uuid=11111111-2222-3333-4444-555555555555
mkdir -p "$root/boot/grub" "$root/etc"
cp "$GUESTS/$kind/vmlinuz" "$root/boot/vmlinuz-1"
cp "$GUESTS/$kind/initrd.gz" "$root/boot/initrd-1"
cat >"$root/boot/grub/grub.cfg" <<END
if [ -s \$prefix/grubenv ]; then load_env; fi
set default="\${saved_entry}"
menuentry 'Wrong' { linux /boot/nothing; }
submenu 'More' --id more {
    menuentry 'Right' --id right {
        search --no-floppy --fs-uuid --set=root $uuid
        linux /boot/vmlinuz-1 quiet from=disk
        initrd /boot/initrd-1
    }
}
END
printf '# GRUB Environment Block\nsaved_entry=more>right\n' >"$root/boot/grub/grubenv"
disk=$SCRATCH/disk.img
if ! mke2fs -q -F -t ext4 -U $uuid -d "$root" "$disk" 96M >"$SCRATCH/mke2fs.log" 2>&1; then
    not_ok "$name" "mke2fs: $(tail_of "$SCRATCH/mke2fs.log")"
    exit 0
fi
chmod a+r "$disk"

# boot_disk NAME FILE - with what lies behind the disk's command line
boot_disk() {
    log=$SCRATCH/boot.log status=0
    # shellcheck disable=SC2086,SC2016
    timeout -k 5 100 $AS_USER "$POPF" run -e "$engine" --net none --no-reboot "$2" --snapshot \
        -a 'run=echo CMDLINE $(cat /proc/cmdline)' </dev/null >"$log" 2>&1 || status=$?
    if [ $status = 0 ] && tr -d '\r' <"$log" | grep -q '^CMDLINE quiet from=disk console=ttyS0 run='; then
        ok "$1"
    else
        not_ok "$1" "status $status: $(tail_of "$log")"
    fi
}
boot_disk "$name: raw" "$disk"
if "$POPF" image convert "$disk" "$SCRATCH/disk.qcow2" >"$SCRATCH/convert.log" 2>&1; then
    chmod a+r "$SCRATCH/disk.qcow2"
    boot_disk "$name: qcow2" "$SCRATCH/disk.qcow2"
else
    not_ok "$name: qcow2" "$(tail_of "$SCRATCH/convert.log")"
fi

# Once more after each reset. The 32-bit kernel takes its time.
status=0
limit=12
[ "$kind" != 686 ] || limit=30
[ "$engine" != interp ] || limit=50
# shellcheck disable=SC2086
timeout -k 5 60 $AS_USER "$POPF" run -e "$engine" --net none --timeout $limit "$disk" --snapshot \
    -a 'run=echo IS-UP; reboot -f' </dev/null >"$SCRATCH/reset.log" 2>&1 || status=$?
ups=$(tr -d '\r' <"$SCRATCH/reset.log" | grep -c '^IS-UP')
if [ $status = 124 ] && [ "$ups" -ge 2 ]; then
    ok "$name: reset"
else
    not_ok "$name: reset" "status $status, $ups boots: $(tail_of "$SCRATCH/reset.log")"
fi

# refuse NAME FILE WORDS
refuse() {
    status=0
    timeout -k 5 60 "$SAN_POPF" run --net none --engine interp "$2" </dev/null \
        >"$SCRATCH/refuse.log" 2>&1 || status=$?
    if [ $status = 1 ] && [ "$(wc -l <"$SCRATCH/refuse.log")" = 1 ] &&
        grep -q "$3" "$SCRATCH/refuse.log"; then
        ok "$1"
    else
        not_ok "$1" "status $status: $(tail_of "$SCRATCH/refuse.log")"
    fi
}
head -c 65536 "$disk" >"$SCRATCH/short.img"
refuse "$name: cut short" "$SCRATCH/short.img" "nothing on it can be booted"
cp "$disk" "$SCRATCH/broken.img"
dd if=/dev/urandom of="$SCRATCH/broken.img" bs=1024 seek=2 count=2048 conv=notrunc 2>/dev/null
refuse "$name: overwritten" "$SCRATCH/broken.img" "disk '"
rm -rf "$root" && mkdir -p "$root/etc"
mke2fs -q -F -t ext4 -d "$root" "$SCRATCH/empty.img" 8M >/dev/null 2>&1
refuse "$name: without a kernel" "$SCRATCH/empty.img" "no kernel"
