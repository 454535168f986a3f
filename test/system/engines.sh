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

# Once more with all user code that may be run untranslated, where the host lets that be.
direct=$(echo "$report" | sed -n 's/^direct *//p')
for kind in cloud 686; do
    for cpus in 1 2; do
        name="boot bt $kind $cpus CPU(s), user code run directly"
        case "$why $direct" in
        "available user code can run"*) ;;
        *)
            skip "$name" "$direct"
            continue
            ;;
        esac
        POPF_BT_DIRECT=always boot "$name" $kind 120 --engine bt --cpus $cpus --stats
        log=$SCRATCH/$(echo "$name" | tr ' /' '__').log
        if [ -f "$log" ] && ! grep -q 'executed directly [1-9]' "$log"; then
            not_ok "$name" "none was: $(tail_of "$log")"
        fi
    done
done
