#!/bin/sh
# Debian's kernels under an engine (interp) to a shell that runs a script and powers off.
# boot.sh ENGINE KIND CPUS
set -u
. "$(dirname "$0")/lib.sh"
engine=$1 kind=$2 cpus=$3
boot "boot $engine $kind $cpus CPU(s)" "$kind" 240 --engine "$engine" --cpus "$cpus"
