#!/bin/sh
# Every way into a kernel, under the engine that auto takes. 16 goes through popf's small BIOS; 64, 32
# and 16 let the kernel unpack itself.
set -u
. "$(dirname "$0")/lib.sh"
for entry in 64 32 16 pvh; do
    boot "entry $entry cloud" cloud 240 --entry $entry
done
for entry in 32 16; do
    boot "entry $entry 686" 686 240 --entry $entry
done
