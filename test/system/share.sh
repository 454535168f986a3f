#!/bin/sh
# A shared folder and vsock, with Linux's drivers: share.sh ENGINE KIND 9p|virtiofs
#
# The guest reads a tree, copies it, does what files are for (share_guest.sh), and finds no way out
# of the folder. A megabyte and more goes through vsock each way, opened from either side.
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
engine=$1 kind=$2 how=$3
name="share $engine $kind $how"
have_guest "$name" "$kind" || exit 0

modules="virtio_pci 9pnet_virtio 9p" option=
[ "$how" = 9p ] || modules="virtio_pci virtiofs" option=:virtiofs
# shellcheck disable=SC2086 # $modules is meant to be split
if ! "$here/../../tools/modules.sh" "$kind" $modules vmw_vsock_virtio_transport >"$SCRATCH/modules" 2>"$SCRATCH/log"; then
    skip "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi

# --- the initramfs: the default guest's and this test's ---

bits=
[ "$kind" != 686 ] || bits=-m32
root=$SCRATCH/root
mkdir -p "$root/mod"
n=100
while read -r file; do
    cp "$file" "$root/mod/$n-$(basename "$file")"
    n=$((n + 1))
done <"$SCRATCH/modules"
cp "$here/share_guest.sh" "$root/test.sh"
peer=$SCRATCH/vsock_peer
if ! cc -O1 -static -o "$peer" "$here/vsock_peer.c" 2>"$SCRATCH/log" ||
    ! cc $bits -O1 -static -o "$root/vsock_peer" "$here/vsock_peer.c" 2>"$SCRATCH/log" ||
    ! cc $bits -O1 -static -o "$root/as_user" "$here/as_user.c" 2>"$SCRATCH/log" ||
    ! cc $bits -O1 -static -o "$root/fsx" "$here/fsx.c" 2>"$SCRATCH/log"; then
    skip "$name" "no static C library: $(tail_of "$SCRATCH/log")"
    exit 0
fi
{
    cat "$GUESTS/$kind/initrd.gz"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1
} >"$SCRATCH/initrd.gz"

# --- the folder, which belongs to whoever runs popf ---

share=$SCRATCH/shared
mkdir -p "$share/tree"
cp -r "$here/../../share" "$here/../../x86" "$here" "$share/tree/"
(cd "$share/tree" && find . -type f | LC_ALL=C sort | xargs md5sum | md5sum) >"$share/tree.sum"
head -c 3000000 /dev/urandom >"$share/big"
echo secret >"$SCRATCH/secret"
ln -s "$SCRATCH" "$share/outside"
ln -s .. "$share/up"
chmod -R a+rX "$SCRATCH"
[ -z "$AS_USER" ] || chown -R 65534:65534 "$share" "$SCRATCH"

# --- run ---

log=$SCRATCH/out
# shellcheck disable=SC2086 # AS_USER is meant to be split
{
    timeout 240 $AS_USER "$peer" host-serve "$SCRATCH/vs_99" 2>"$SCRATCH/serve.log" &
    timeout 240 $AS_USER "$peer" host-send "$SCRATCH/vs" 77 <"$share/big" 2>"$SCRATCH/send.log" |
        md5sum >"$SCRATCH/echo.sum" &
    sent=$!
    status=0
    timeout -k 5 240 $AS_USER "$POPF" run -k "$GUESTS/$kind/vmlinuz" -i "$SCRATCH/initrd.gz" \
        --engine "$engine" --no-reboot --share "$share:data$option" --share "$share:frozen:ro$option" \
        --vsock "$SCRATCH/vs" -a "console=ttyS0 quiet run=sh /test.sh $how" </dev/null >"$log" 2>&1 ||
        status=$?
    wait $sent
}
if [ $status != 0 ]; then
    not_ok "$name" "status $status: $(tail_of "$log")"
elif tr -d '\r' <"$log" | grep -q '^SHARE '; then
    not_ok "$name" "$(tr -d '\r' <"$log" | grep '^SHARE ' | head -n 1)"
elif ! tr -d '\r' <"$log" | grep -q '^SHARE-IS-DONE'; then
    not_ok "$name" "it did not come to its end: $(tail_of "$log")"
elif [ "$(cat "$SCRATCH/echo.sum")" != "$(md5sum <"$share/big")" ]; then
    not_ok "$name" "what came back from the guest's port differs"
elif ! diff -r "$share/tree" "$share/copy" >"$SCRATCH/diff" 2>&1; then
    not_ok "$name" "the guest's copy differs: $(tail_of "$SCRATCH/diff")"
elif [ -e "$SCRATCH/vs" ] || [ "$(cat "$SCRATCH/secret")" != secret ]; then
    not_ok "$name" "something was left behind, or changed outside the folder"
else
    ok "$name"
fi
