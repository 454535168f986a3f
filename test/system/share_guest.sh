# test/system/share_guest.sh - the guest's part of share.sh. Every line that begins with "SHARE" is
# looked for on the host.
for m in /mod/*.ko; do
    insmod "$m" || echo "SHARE insmod $m failed"
done
mkdir -p /mnt /ro
if [ "$1" = 9p ]; then
    options=trans=virtio,version=9p2000.L,msize=500000
    mount -t 9p -o $options,cache=mmap data /mnt || echo "SHARE mount failed"
    mount -t 9p -o $options,ro,cache=loose frozen /ro || echo "SHARE mount ro failed"
else
    mount -t virtiofs data /mnt || echo "SHARE mount failed"
    mount -t virtiofs -o ro frozen /ro || echo "SHARE mount ro failed"
fi

check() {
    what=$1
    shift
    "$@" >/tmp/out 2>&1 || echo "SHARE $what failed: $(head -n 1 /tmp/out)"
}
refuse() {
    what=$1
    shift
    "$@" >/tmp/out 2>&1 && echo "SHARE $what was allowed"
}
is() {
    [ "$2" = "$3" ] || echo "SHARE $1: \"$2\", not \"$3\""
}
tree_sum() {
    (cd "$1" && find . -type f | LC_ALL=C sort | xargs md5sum | md5sum)
}

# --- the host's tree, read and copied ---
cd /mnt || exit
is "sum of the host's tree" "$(tree_sum tree)" "$(cat tree.sum)"
check "copy" cp -r tree copy
is "sum of the copy" "$(tree_sum copy)" "$(cat tree.sum)"
is "sum through the page cache" "$(tree_sum /ro/tree)" "$(cat tree.sum)"

# --- what files do ---
mkdir w && cd w || exit
echo hello >a
check "chown" chown 7:8 a
check "chmod" chmod 4711 a
is "mode and owner" "$(stat -c '%f %u %g' a)" "89c9 7 8"
check "a user's write" chmod 6777 a
check "a user's write" /as_user 9 dd if=/dev/zero of=a bs=1 count=1 conv=notrunc
is "mode after a user's write" "$(stat -c '%a %s' a)" "777 6"
echo hello >a
check "a user's truncation" chmod 6777 a
check "a user's truncation" /as_user 9 sh -c ': >a'
is "mode after a user's truncation" "$(stat -c '%a %s' a)" "777 0"
check "root's write" chmod 6777 a
check "root's write" sh -c 'echo hello >a'
is "mode after root's write" "$(stat -c '%a %s' a)" "6777 6"
check "chown to another" chown 8:8 a
is "mode after chown" "$(stat -c '%a %s' a)" "777 6"
check "hard link" ln a b
is "links" "$(stat -c %h b)" 2
check "symbolic link" ln -s a l
is "through a symbolic link" "$(cat l)" hello
check "dangling link" ln -s /nothing/there d
is "readlink" "$(readlink d)" /nothing/there
check "fifo" mkfifo p
(echo through >p) &
is "through a fifo" "$(cat p)" through
check "device" mknod null c 1 3
is "device" "$(stat -c '%F %t %T' null)" "character special file 1 3"
check "use of a device" sh -c 'echo gone >null'
exec 3<a 4>>a
check "unlink an open file" rm a b
is "read after unlink" "$(cat <&3)" hello
check "write after unlink" sh -c 'echo more >&4'
exec 3<&- 4>&-
refuse "open after unlink" cat b
echo one >f && echo two >g
check "rename over" mv -f f g
is "renamed over" "$(cat g)" one
mkdir e e/sub
refuse "rmdir of a full directory" rmdir e
refuse "a directory into itself" mv e e/sub/x
check "rename a directory" mv e h
check "rmdir" rmdir h/sub h
name=$(printf 'n%.0s' $(seq 255))
check "a long name" touch "$name"
refuse "a longer name" touch "x$name"
printf 0123456789 >t
check "truncate" truncate -s 4 t
is "truncated" "$(cat t)" 0123
check "extend" truncate -s 100000 t
is "extended" "$(wc -c <t)" 100000
check "append" sh -c 'echo x >>t && echo y >>t'
is "appended" "$(tail -c 4 t | tr '\n' .)" x.y.
check "touch" touch -d '2001-02-03 04:05:06' t
is "time" "$(stat -c %y t | cut -c 1-19)" "2001-02-03 04:05:06"
i=0
while [ $i -lt 300 ]; do
    : >"many$i"
    i=$((i + 1))
done
is "entries" "$(ls | grep -c many)" 300
rm -f many*
check "sync" sync
cd ..

check "file exerciser" /fsx /mnt/w/fsx 300 $$

# --- the way out ---
refuse "a link to the host's files" cat outside/secret
refuse "a link upwards" cat up/secret
refuse "upwards" cat ../../secret
refuse "write to what is read-only" touch /ro/x
refuse "chmod of what is read-only" chmod 600 /ro/tree.sum

# --- vsock ---
check "to the host" sh -c '/vsock_peer send 99 </mnt/big >/tmp/back'
check "what came back" cmp /mnt/big /tmp/back
/vsock_peer send 98 </dev/null 2>/dev/null && echo "SHARE a connection to nobody"
/vsock_peer serve 77 || echo "SHARE serving failed"
cd /
umount /mnt /ro || echo "SHARE umount failed"
echo SHARE-IS-DONE
