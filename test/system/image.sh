#!/bin/sh
# An image made by `popf image build`, booted with its own kernel: systemd, ssh's port, the agent,
# files in and out, the power button. Building takes a minute or so; the image is kept in the cache
# for as long as what makes it stays as it is. image.sh [ENGINE]
set -u
. "$(dirname "$0")/lib.sh"
top=$(cd "$(dirname "$0")/../.." && pwd)
engine=${1:-bt}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/popf
home=$SCRATCH/home
log=$SCRATCH/log
image=$home/debian.qcow2
stamp=$(cat "$top"/cli/build*.* "$top"/guest/*.* | cksum | tr ' ' -)
mkdir -p "$home/run" "$cache"
chmod 777 "$home" "$home/run"
export HOME="$home" XDG_RUNTIME_DIR="$home/run" XDG_STATE_HOME="$home/state"

popf() {
    # shellcheck disable=SC2086 # AS_USER is meant to be split
    timeout -k 5 "${limit:-100}" $AS_USER "$POPF" "$@"
}

# --- the image ---

for tool in mmdebstrap mke2fs; do
    if ! PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null 2>&1; then
        skip "image" "$tool is not installed"
        exit 0
    fi
done
if [ -f "$cache/check-$stamp.qcow2" ]; then
    cp "$cache/check-$stamp.qcow2" "$image"
    chmod 666 "$image"
    skip "image: build" "nothing has changed since it was built last"
else
    limit=400 popf image build debian --no-cloud-init -o "$image" >"$log" 2>&1
    status=$?
    if [ $status != 0 ] && grep -Eq 'no way to make files|Failed to fetch|Could not (connect|resolve)' "$log"; then
        skip "image: build" "$(grep -E 'no way|Failed|Could not' "$log" | head -n 1 | cut -c 1-150)"
        exit 0
    elif [ $status != 0 ]; then
        not_ok "image: build" "status $status: $(tail_of "$log")"
        exit 0
    fi
    ok "image: build"
    rm -f "$cache"/check-*.qcow2
    cp "$image" "$cache/check-$stamp.qcow2"
fi

# --- the machine ---

# want NAME STATUS COMMAND...
want() {
    name=$1 wanted=$2
    shift 2
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" = "$wanted" ]; then
        ok "image: $name"
    else
        not_ok "image: $name" "status $status: $(tail_of "$log")"
        return 1
    fi
}
same() {
    if [ "$2" = "$3" ]; then
        ok "image: $1"
    else
        not_ok "image: $1" "\"$2\" is not \"$3\""
    fi
}
trap 'popf kill image >/dev/null 2>&1' EXIT

mkdir -p "$home/shared"
echo shared >"$home/shared/file"
chmod -R a+rX "$home/shared"
want "start" 0 popf run -d --name image --engine "$engine" -m 1G --net user \
    --share "$home/shared:/srv/nine" --share "$home/shared:/srv/a-name/of-fs:virtiofs" "$image,overlay" || exit 0
if ! limit=200 want "the agent answers, systemd has started" 0 \
    popf exec --wait 180 image -- systemctl is-system-running --wait; then
    popf logs image | tail -n 5 >&2
    exit 0
fi
want "status of a command" 7 popf exec image -- sh -c 'exit 7'
want "signal of a command" 137 popf exec image -- sh -c 'kill -9 $$'
want "no such command" 127 popf exec image nosuchcommand
want "root is mounted" 0 popf exec image -- sh -c '[ "$(findmnt -n -o LABEL /)" = popf-root ]'
want "ssh listens" 0 popf exec image -- sh -c 'ss -ltn | grep -q :22'
want "the network is up" 0 popf exec image -- sh -c 'ip -4 addr show scope global | grep -q inet'

want "a folder is there by 9p" 0 popf exec image -- grep -q shared /srv/nine/file
want "a folder is there by virtio-fs" 0 popf exec image -- grep -q shared /srv/a-name/of-fs/file

# Through pipes, a terminal, and files both ways.
head -c 3000000 /dev/urandom >"$home/data"
sum=$(sha256sum <"$home/data")
same "standard input" "$(popf exec image sha256sum <"$home/data")" "$sum"
want "copy in" 0 popf cp "$home/data" image:/tmp/
want "copy out" 0 popf cp image:/tmp/data "$home/back"
same "copied back" "$(sha256sum <"$home/back")" "$sum"
mkdir -p "$home/folder/sub"
echo x >"$home/folder/sub/file"
want "copy a folder" 0 popf cp "$home/folder" image:/srv/new
same "its file" "$(popf exec image cat /srv/new/sub/file)" x
want "a terminal" 0 popf exec -t image -- tty
want "copy of nothing" 1 popf cp image:/nonexistent "$home/"

want "power button" 0 popf stop -t 60 image
popf ps -a >"$log" 2>&1
if grep -q "^image .*the guest switched itself off" "$log"; then
    ok "image: the guest has switched itself off"
else
    not_ok "image: the guest has switched itself off" "$(tail_of "$log")"
fi
