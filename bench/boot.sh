#!/bin/sh
# bench/boot.sh [OPTION...] - of the benchmark (bench.sh has the options), the boots alone.
exec "$(dirname "$0")/bench.sh" -p boot "$@"
