#!/bin/sh
# The other engines: KVM only where doctor finds it good, the translator where there is one.
set -u
. "$(dirname "$0")/lib.sh"
report=$("$POPF" doctor)
takes=$(echo "$report" | sed -n 's/^auto *takes //p')
for kind in cloud 686; do
    for cpus in 1 2; do
        case $takes in
        kvm:*) AS_USER='' boot "boot kvm $kind $cpus CPU(s)" $kind 120 --engine kvm --cpus $cpus ;;
        *) skip "boot kvm $kind $cpus CPU(s)" "auto takes $takes" ;;
        esac
    done
done

why=$(echo "$report" | sed -n 's/^engine *bt *//p')
for kind in cloud 686; do
    for cpus in 1 2; do
        case $why in
        available) boot "boot bt $kind $cpus CPU(s)" $kind 120 --engine bt --cpus $cpus ;;
        *) skip "boot bt $kind $cpus CPU(s)" "$why" ;;
        esac
    done
done
