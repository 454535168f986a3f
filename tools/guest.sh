#!/bin/sh
# tools/guest.sh [KIND] - assembles a guest in the cache, once, and prints its directory, in which
# are `vmlinuz` and `initrd.gz`. KIND: cloud (linux-image-cloud-amd64, the default), amd64, 686.
#
# An ordinary user can do all of it: packages come through `apt-get download` and are unpacked, not
# installed. Where apt has no lists for what is wanted, a private set is fetched into the cache; the
# system's own apt is left as it is.
set -eu
umask 022

kind=${1:-cloud}
case $kind in
cloud) package=linux-image-cloud-amd64 arch=amd64 ;;
amd64) package=linux-image-amd64 arch=amd64 ;;
686) package=linux-image-686 arch=i386 ;;
*)
    echo "tools/guest.sh: unknown guest \"$kind\": there are cloud, amd64, 686" >&2
    exit 2
    ;;
esac
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/popf
guest=$cache/guest-$kind
init=$top/tools/guest-init

if [ -f "$guest/vmlinuz" ] && [ -f "$guest/initrd.gz" ] && cmp -s "$init" "$guest/init"; then
    echo "$guest"
    exit 0
fi
mkdir -p "$cache"
work=$(mktemp -d "$cache/tmp.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# --- packages ---

# apt for the guest's architecture: with the system's lists, or with private ones.
private=no
apt_run() {
    tool=$1
    shift
    if [ $private = yes ]; then
        set -- -o Dir::State="$lists/state" -o Dir::Cache="$lists/cache" \
            -o Dir::State::status="$lists/status" -o APT::Architecture=$arch \
            -o APT::Architectures=$arch -o Acquire::Languages=none \
            -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
            -o APT::Sandbox::User="$(id -un)" "$@"
    fi
    "$tool" -q "$@"
}

use_private_lists() {
    private=yes
    lists=$cache/apt-$arch
    mkdir -p "$lists/state/lists/partial" "$lists/cache/archives/partial"
    : >"$lists/status"
    echo "fetching apt's lists for $arch ..." >&2
    apt_run apt-get update >"$work/log" 2>&1 || true
    if ! knows "$package"; then
        cat "$work/log" >&2
        echo "tools/guest.sh: apt does not know $package: is the network there?" >&2
        exit 1
    fi
}

knows() {
    apt_run apt-cache show "$1" >/dev/null 2>&1
}

# Downloads package $1 and unpacks it into $2.
fetch() {
    echo "fetching $1 ..." >&2
    mkdir -p "$work/deb" "$2"
    if ! (cd "$work/deb" && apt_run apt-get download "$1") >"$work/log" 2>&1; then
        cat "$work/log" >&2
        return 1
    fi
    dpkg -x "$work"/deb/*.deb "$2"
    rm -rf "$work/deb"
}

if [ $arch != "$(dpkg --print-architecture)" ] || ! knows "$package"; then
    use_private_lists
fi

# --- the kernel: the package that the metapackage stands for ---

latest() {
    apt_run apt-cache depends "$package" |
        sed -n 's/^ *Depends: *\(linux-image-[0-9][^: ]*\).*/\1/p' | head -n 1
}
image=$(latest)
if [ -z "$image" ]; then
    echo "tools/guest.sh: $package names no kernel" >&2
    exit 1
fi
if ! fetch "$image" "$work/kernel"; then
    # The lists are older than the archive.
    use_private_lists
    image=$(latest)
    fetch "$image" "$work/kernel"
fi

# --- the initramfs: BusyBox and tools/guest-init ---

if [ $arch = amd64 ] && dpkg-query -W -f '${db:Status-Status}' busybox-static 2>/dev/null |
    grep -qx installed; then
    busybox=/bin/busybox
else
    fetch busybox-static "$work/busybox"
    busybox=$work/busybox/bin/busybox
fi
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/tmp" "$root/root" "$root/etc"
cp "$busybox" "$root/bin/busybox"
"$busybox" --list | while read -r name; do
    [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
done
cp "$init" "$root/init"
chmod 755 "$root/init" "$root/bin/busybox"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"

mkdir -p "$work/guest"
(cd "$root" && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc -R 0:0 2>/dev/null) |
    gzip -9n >"$work/guest/initrd.gz"
cp "$work"/kernel/boot/vmlinuz-* "$work/guest/vmlinuz"
cp "$init" "$work/guest/init"
echo "$image" >"$work/guest/version"
rm -rf "$guest"
mv "$work/guest" "$guest"
echo "$guest"
