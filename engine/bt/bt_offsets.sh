#!/bin/sh
# bt_offsets.sh CC... INPUT OUTPUT ROOT - offsets of C structures as #defines for assembly.
set -eu
while [ $# -gt 3 ]; do
    cc="${cc:+$cc }$1"
    shift
done
$cc -std=gnu11 -D_GNU_SOURCE -I"$3" -S -O1 -o - "$1" |
    sed -n 's/^[[:space:]]*@\([A-Z_]*\) \(-\{0,1\}[0-9]*\).*/#define \1 \2/p' >"$2"
grep -q CPU_SELF "$2"
