#!/bin/sh
# tools/modules.sh KIND MODULE... - prints the files of a guest kernel's modules, one a line, in the
# order in which insmod wants them: what they depend on first. KIND as for tools/guest.sh, which
# fetched the kernel; its package is fetched once more, for the modules, and kept in the cache.
set -eu
umask 022

kind=${1:?usage: tools/modules.sh KIND MODULE...}
shift
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/popf
guest=$("$top/tools/guest.sh" "$kind")
package=$(cat "$guest/version")
modules=$cache/modules-$package

# Another architecture's package is known to the lists that tools/guest.sh has fetched for it.
download() {
    lists=$cache/apt-i386
    if [ "$kind" = 686 ] && [ -d "$lists" ]; then
        set -- -o Dir::State="$lists/state" -o Dir::Cache="$lists/cache" \
            -o Dir::State::status="$lists/status" -o APT::Architecture=i386 \
            -o APT::Architectures=i386 -o APT::Sandbox::User="$(id -un)"
    fi
    apt-get -q "$@" download "$package" >log 2>&1 || {
        cat log >&2
        return 1
    }
}

if [ ! -d "$modules" ]; then
    work=$(mktemp -d "$cache/tmp.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    echo "fetching $package for its modules ..." >&2
    (cd "$work" && download)
    dpkg -x "$work"/*.deb "$work/root"
    mv "$work/root/lib/modules" "$modules" 2>/dev/null || [ -d "$modules" ]
fi

# A module's dependencies stand in it as "depends=a,b". Names have _ where files may have -.
seen=
print() {
    case " $seen " in
    *" $1 "*) return 0 ;;
    esac
    seen="$seen $1"
    pattern=$(echo "$1" | sed 's/[-_]/[-_]/g')
    file=$(find "$modules" -name "$pattern.ko" | head -n 1)
    if [ -z "$file" ]; then
        echo "tools/modules.sh: $package has no module $1" >&2
        exit 1
    fi
    # $file is set anew by what is called.
    for dep in $(tr '\0' '\n' <"$file" | sed -n 's/^depends=//p' | tr , ' '); do
        print "$dep"
    done
    find "$modules" -name "$(echo "$1" | sed 's/[-_]/[-_]/g').ko" | head -n 1
}
for name in "$@"; do
    print "$name"
done
