#!/bin/sh
# bench/report.sh DIR - prints the tables of the results in DIR (raw.csv), and writes table.txt,
# summary.csv and plot.svg there.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
out=$1
{
    cat "$out/machine" 2>/dev/null || true
    awk -v csv="$out/summary.csv" -f "$top/bench/report.awk" "$out/raw.csv"
    if [ -s "$out/notes" ]; then
        echo
        echo "Left out, and why:"
        sed 's/^/  /' "$out/notes"
    fi
} >"$out/table.txt"
awk -f "$top/bench/plot.awk" "$out/summary.csv" >"$out/plot.svg"
cat "$out/table.txt"
echo
echo "in $out: table.txt, summary.csv, raw.csv, plot.svg"
