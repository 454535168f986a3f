#!/bin/sh
# Networking with Linux's driver: net.sh ENGINE KIND
#
# A machine gets an address by DHCP, talks to the host's loopback both ways, is reached through a
# forwarded port, and all of it is recorded; a restricted one reaches only what is allowed; and two
# machines talk through a socket. Nothing leaves the host.
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
engine=$1 kind=$2
name="net $engine $kind"
have_guest "$name" "$kind" || exit 0
if ! "$here/../../tools/modules.sh" "$kind" virtio_pci virtio_net \
    >"$SCRATCH/modules" 2>"$SCRATCH/log"; then
    skip "$name" "$(tail_of "$SCRATCH/log")"
    exit 0
fi
peer=$SCRATCH/tcp_peer
if ! cc -O1 -o "$peer" "$here/tcp_peer.c" 2>"$SCRATCH/log"; then
    skip "$name" "no C compiler: $(tail_of "$SCRATCH/log")"
    exit 0
fi

home=$SCRATCH/home # machines with names keep things there
mkdir -p "$home/run"
chmod 777 "$home" "$home/run"
export HOME="$home" XDG_RUNTIME_DIR="$home/run" XDG_STATE_HOME="$home/state"

# --- the guest ---

root=$SCRATCH/root
mkdir -p "$root/mod"
n=100
while read -r file; do
    cp "$file" "$root/mod/$n-$(basename "$file")"
    n=$((n + 1))
done <"$SCRATCH/modules"
cat >"$root/dhcp" <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "NET-LEASE $ip/$mask $router $dns"
END
cat >"$root/up" <<'END'
for m in /mod/*; do
    insmod "$m"
done
ip link set lo up
ip link set eth0 up
mkfifo /quiet # input that never ends: at its end, nc says that nothing more comes
exec 9<>/quiet
lease() {
    udhcpc -q -n -t 10 -T 1 -i eth0 -s /dhcp 2>&1 | grep NET-
}
END
# user.sh OUT IN: sends a file to port OUT of the host, takes one from port IN, and waits for one on
# its own port 2000.
cat >"$root/user.sh" <<'END'
. /up
lease
ping -c 1 -W 5 10.0.2.2 >/dev/null && echo NET-PING
nc 10.0.2.2 "$1" </bin/busybox
echo "NET-SENT $(md5sum </bin/busybox)"
echo "NET-GOT $(nc 10.0.2.2 "$2" </dev/null | md5sum)"
echo NET-LISTENS
echo "NET-FORWARDED $(nc -l -p 2000 <&9 | md5sum)"
END
cat >"$root/restrict.sh" <<'END'
. /up
lease
echo "NET-ALLOWED $(nc -w 5 10.0.2.2 "$1" <&9)"
echo "NET-FORBIDDEN $(nc -w 5 10.0.2.2 "$2" <&9 2>&1)"
END
cat >"$root/cable.sh" <<'END'
. /up
ip addr add "10.9.9.$1/24" dev eth0
n=0
while [ "$(cat /sys/class/net/eth0/carrier)" != 1 ] && [ $n -lt 60 ]; do
    sleep 0.5
    n=$((n + 1))
done
if [ "$1" = 1 ]; then
    echo "NET-CABLE $(nc -l -p 2000 <&9 | md5sum)"
else
    n=0
    while ! ping -c 1 -W 1 10.9.9.1 >/dev/null && [ $n -lt 30 ]; do
        n=$((n + 1))
    done
    echo "NET-SENT $(md5sum </bin/busybox)"
    sleep 2
    nc 10.9.9.1 2000 </bin/busybox
fi
END
chmod 755 "$root/dhcp"
initrd=$SCRATCH/initrd.gz
{
    cat "$GUESTS/$kind/initrd.gz"
    (cd "$root" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) | gzip -1
} >"$initrd"
data=$SCRATCH/data
cat "$GUESTS/$kind/initrd.gz" "$initrd" >"$data"
sum=$(md5sum <"$data")
open=$SCRATCH/open # where an ordinary user may write
mkdir -p "$open"
chmod -R a+rX "$SCRATCH"
chmod 1777 "$open"

# run NAME SECONDS SCRIPT OPTION...
run() {
    machine=$1-$$ limit=$2 script=$3
    shift 3
    # shellcheck disable=SC2086 # AS_USER is meant to be split
    timeout -k 5 "$limit" $AS_USER "$POPF" run -e "$engine" -k "$GUESTS/$kind/vmlinuz" -i "$initrd" \
        --name "$machine" --no-reboot "$@" -a "console=ttyS0 quiet run=sh $script" </dev/null 2>&1
}

# says LOG LINE - does the log have it?
says() {
    tr -d '\r' <"$1" | grep -qxF -e "$2"
}

# verdict NAME LOG WORD... - every WORD must stand at the beginning of a line
verdict() {
    what=$1 log=$2
    shift 2
    for word in "$@"; do
        if ! tr -d '\r' <"$log" | grep -qF -e "$word"; then
            not_ok "$what" "no \"$word\": $(tail_of "$log")"
            return
        fi
    done
    ok "$what"
}

port=$((20000 + $$ % 20000)) # and the nine after it
peers=
# shellcheck disable=SC2086 # peers is meant to be split
trap 'kill $peers 2>/dev/null' EXIT

# serve PORT FILE - gives it to whoever comes
serve() {
    timeout 200 "$peer" give "$1" <"$2" >/dev/null 2>&1 &
    peers="$peers $!"
}

# --- user ---

log=$SCRATCH/user.log pcap=$open/net.pcap
timeout 200 "$peer" take $port >"$SCRATCH/received" 2>/dev/null &
peers=$!
serve $((port + 1)) "$data"
run user 120 "/user.sh $port $((port + 1))" --net user --pcap "$pcap" -p $((port + 2)):2000 >"$log" &
pid=$!
n=0
while ! grep -q NET-LISTENS "$log" && kill -0 $pid 2>/dev/null && [ $n -lt 240 ]; do
    sleep 0.5
    n=$((n + 1))
done
sleep 1
taken=$(run taken 20 /user.sh --net user -p $((port + 2)):2000)
timeout 60 "$peer" send $((port + 2)) <"$data" >/dev/null 2>&1
wait $pid
verdict "$name: DHCP and ping" "$log" "NET-LEASE 10.0.2.15/24 10.0.2.2 10.0.2.3" NET-PING
verdict "$name: out" "$log" "NET-SENT $(md5sum <"$SCRATCH/received")"
verdict "$name: in" "$log" "NET-GOT $sum"
verdict "$name: forwarded port" "$log" "NET-FORWARDED $sum"
case $taken in
*"$((port + 2))"*) ok "$name: a port that is taken" ;;
*) not_ok "$name: a port that is taken" "$(echo "$taken" | tail -n 1)" ;;
esac
if [ "$(od -An -tx1 -N4 "$pcap" 2>/dev/null)" = " 4d 3c b2 a1" ] &&
    [ "$(wc -c <"$pcap")" -gt "$(wc -c <"$data")" ]; then
    ok "$name: recorded"
else
    not_ok "$name: recorded" "$(wc -c <"$pcap") bytes"
fi

# --- restricted ---

log=$SCRATCH/restrict.log
echo welcome >"$SCRATCH/welcome"
serve $((port + 3)) "$SCRATCH/welcome"
serve $((port + 4)) "$SCRATCH/welcome"
run restrict 100 "/restrict.sh $((port + 3)) $((port + 4))" --net user,restrict \
    --allow localhost:$((port + 3)) >"$log"
verdict "$name: allowed" "$log" "NET-ALLOWED welcome"
if says "$log" "NET-FORBIDDEN nc: can't connect to remote host (10.0.2.2): Connection refused"; then
    ok "$name: restricted"
else
    not_ok "$name: restricted" "$(grep -F NET-FORBIDDEN "$log")"
fi

# --- two machines ---

run one 120 "/cable.sh 1" --net "socket:$open/cable" >"$SCRATCH/one.log" &
pid=$!
run two 120 "/cable.sh 2" --net "socket:$open/cable" >"$SCRATCH/two.log"
wait $pid
verdict "$name: two machines" "$SCRATCH/one.log" \
    "NET-CABLE $(sed -n 's/^NET-SENT \([0-9a-f]*\).*/\1/p' "$SCRATCH/two.log")"
