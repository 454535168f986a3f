#!/bin/sh
# tools/deps.sh WHAT... - installs the Debian packages that are missing, and does nothing if none is.
#   build  what compiling popf needs        check  what ./check needs besides
#   run    what `popf image build` needs    bench  QEMU, to compare with
set -eu

packages() {
    case $1 in
    build) echo gcc libc6-dev binutils meson ninja-build pkg-config zlib1g-dev liblzma-dev \
                liblz4-dev libzstd-dev libslirp-dev libjson-c-dev libcrypt-dev libext2fs-dev \
                comerr-dev ;;
    check) echo libcmocka-dev libzydis-dev acpica-tools clang-format util-linux bsdutils gdb \
                qemu-utils mmdebstrap e2fsprogs fakechroot fakeroot busybox ;;
    run) echo mmdebstrap uidmap e2fsprogs fdisk ;;
    bench) echo qemu-system-x86 ;;
    *) echo "tools/deps.sh: unknown set \"$1\"" >&2; exit 2 ;;
    esac
}

installed() {
    # pkg-config may be there in the shape of pkgconf
    [ "$1" = pkg-config ] && command -v pkg-config >/dev/null 2>&1 && return 0
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

missing=
for set in "$@"; do
    wanted=$(packages "$set")
    for p in $wanted; do
        installed "$p" || missing="$missing $p"
    done
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "popf needs these packages, and there is no apt-get to install them:$missing" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "popf needs packages that only root can install; as root, run:" >&2
        echo "  apt-get update && apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "installing:$missing" >&2
install() {
    # shellcheck disable=SC2086 # the list is meant to be split
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $missing >&2
}
# Lists that are absent or out of date are fetched once.
known() {
    for p in $missing; do
        apt-cache -q show "$p" >/dev/null 2>&1 || return 1
    done
}
if known && install; then
    exit 0
fi
$as_root apt-get update -q >&2
install
