#!/bin/sh
# tools/build.sh [DIR [MESON-OPTION...]] - configures DIR (build) if need be, and builds.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$top/build}
[ $# -eq 0 ] || shift

log=$dir.log
quietly() {
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        return 1
    fi
}
if [ ! -f "$dir/build.ninja" ]; then
    rm -rf "$dir"
    quietly meson setup "$@" "$dir" "$top"
elif [ $# -gt 0 ]; then
    # What was missing when it was set up may have been installed since.
    quietly meson configure --clearcache "$@" "$dir"
    quietly meson setup --reconfigure "$dir" "$top"
fi
# A terminal sees ninja's progress; a log file sees it when something goes wrong.
if [ -t 2 ]; then
    ninja -C "$dir" --quiet >&2
else
    quietly ninja -C "$dir"
fi
ln -sf cli/popf "$dir/popf"
rm -f "$log"
