# build_root.sh - the second half of `popf image build` (cli/build.c): a tar of a root file system
# comes in on standard input, an ext4 file system goes out. Runs as root, as root of a user
# namespace, or under fakeroot: it may own and chown files, and nothing else. Lines "I: ..." on
# standard error are progress.
#
#   ROOT       an empty directory           IMG        the file to make
#   OFFSET     bytes before the file system SIZE       of the file system, KiB
#   LABEL      of the file system           NAME       the host's name
#   LOGIN      a user to make, or empty     KEYS       file with its ssh keys, or empty
#   HASH       its password, crypted        ROOT_HASH  root's; empty: no password asked on the console
#   CLOUD      yes: cloud-init is in there  AGENT      file with the agent, or empty
#   KARGS      kernel command line after root=
set -eu
umask 022
say() {
    echo "I: $*" >&2
}
say unpacking
# What tar cannot make in a user namespace, udev makes at every boot.
xattrs='--xattrs --xattrs-include=*'
# fakeroot forgets what a file is once it gets attributes; all that is lost is ping's capability.
[ -z "${FAKEROOTKEY:-}" ] || xattrs=--no-xattrs
set -f
# shellcheck disable=SC2086 # two words
tar -x -p -f - -C "$ROOT" --numeric-owner $xattrs --exclude='./dev/*'
set +f
cd "$ROOT"
say configuring

# link UNIT TARGET.wants... - enables a unit.
link() {
    unit=$1
    shift
    for wants in "$@"; do
        mkdir -p "etc/systemd/system/$wants"
        ln -sf "/lib/systemd/system/$unit" "etc/systemd/system/$wants/$unit"
    done
}

# --- the machine's own ---

echo "$NAME" >etc/hostname
cat >etc/hosts <<END
127.0.0.1 localhost
127.0.1.1 $NAME
::1 localhost ip6-localhost ip6-loopback
END
cat >etc/fstab <<END
LABEL=$LABEL / ext4 defaults,errors=remount-ro,x-systemd.growfs 0 1
END
[ -e etc/default/locale ] || echo LANG=C.UTF-8 >etc/default/locale
: >etc/machine-id
rm -f etc/apt/apt.conf.d/99mmdebstrap-proxy

# --- network: DHCP on every Ethernet ---

mkdir -p etc/systemd/network etc/systemd/system/systemd-networkd-wait-online.service.d
cat >etc/systemd/network/80-dhcp.network <<END
[Match]
Name=en* eth*

[Network]
DHCP=yes
IPv6AcceptRA=yes

[DHCPv4]
UseDomains=yes
ClientIdentifier=mac
END
# A machine without a network is a machine that boots, too.
cat >etc/systemd/system/systemd-networkd-wait-online.service.d/popf.conf <<END
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=30
END
link systemd-networkd.service multi-user.target.wants
link systemd-networkd.socket sockets.target.wants
link systemd-networkd-wait-online.service network-online.target.wants
if [ -e lib/systemd/system/systemd-resolved.service ]; then
    link systemd-resolved.service multi-user.target.wants
    ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
else
    rm -f etc/resolv.conf
fi

# --- consoles ---

mkdir -p etc/systemd/system/getty.target.wants
ln -sf /lib/systemd/system/serial-getty@.service \
    etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service
# There is no screen: the getty that would wait for one is not started.
rm -f etc/systemd/system/getty.target.wants/getty@tty1.service

# Package lists are fetched when somebody asks for it, not while the machine starts.
rm -f etc/systemd/system/timers.target.wants/apt-daily.timer \
    etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer

# --- ssh: keys are made by each machine, not by the image ---

rm -f etc/ssh/ssh_host_*
if [ -e usr/sbin/sshd ]; then
    cat >lib/systemd/system/popf-ssh-keys.service <<END
[Unit]
Description=SSH host key of this machine
Before=ssh.service ssh.socket
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
END
    link popf-ssh-keys.service multi-user.target.wants
    mkdir -p etc/ssh/sshd_config.d
    echo "HostKey /etc/ssh/ssh_host_ed25519_key" >etc/ssh/sshd_config.d/popf.conf
fi

# --- users ---

# set_password NAME HASH
set_password() {
    awk -F: -v OFS=: -v name="$1" -v hash="$2" '$1 == name { $2 = hash } { print }' \
        etc/shadow >etc/shadow.new
    cat etc/shadow.new >etc/shadow
    rm etc/shadow.new
}

# put_keys HOME OWNER
put_keys() {
    mkdir -p "$1/.ssh"
    cat "$KEYS" >"$1/.ssh/authorized_keys"
    chmod 700 "$1/.ssh"
    chmod 600 "$1/.ssh/authorized_keys"
    chown -R "$2" "$1/.ssh"
}

set_password root "$ROOT_HASH"
if [ -n "$LOGIN" ] && [ "$LOGIN" != root ]; then
    echo "$LOGIN:x:1000:1000::/home/$LOGIN:/bin/bash" >>etc/passwd
    echo "$LOGIN:${HASH:-*}:19700:0:99999:7:::" >>etc/shadow
    echo "$LOGIN:x:1000:" >>etc/group
    echo "$LOGIN:!::" >>etc/gshadow
    cp -R etc/skel "home/$LOGIN"
    chown -R 1000:1000 "home/$LOGIN"
    if [ -d etc/sudoers.d ]; then
        echo "$LOGIN ALL=(ALL:ALL) NOPASSWD: ALL" >etc/sudoers.d/popf
        chmod 440 etc/sudoers.d/popf
    fi
    [ -z "$KEYS" ] || put_keys "home/$LOGIN" 1000:1000
elif [ -n "$KEYS" ]; then
    put_keys root 0:0
fi

# --- cloud-init: only what a disk beside this one can say, looked for and not waited for ---

if [ "$CLOUD" = yes ]; then
    mkdir -p etc/cloud/cloud.cfg.d
    # Two sources, so that it is really looked whether one is there: else cloud-init is not started.
    cat >etc/cloud/cloud.cfg.d/95-popf.cfg <<END
datasource_list: [NoCloud, ConfigDrive]
ssh_genkeytypes: [ed25519]
ssh_deletekeys: false
manage_etc_hosts: false
locale: false
grub_dpkg: {enabled: false}
END
    rm -f etc/cloud/cloud.cfg.d/90_dpkg.cfg
fi

# --- the agent of `popf exec` and `popf cp`, and shared folders ---

mkdir -p usr/lib/popf
if [ -n "$AGENT" ]; then
    cat "$AGENT" >usr/lib/popf/agent
    chmod 755 usr/lib/popf/agent
    cat >lib/systemd/system/popf-agent.service <<END
[Unit]
Description=Agent of popf exec, cp and stop
DefaultDependencies=no
After=local-fs.target systemd-modules-load.service
Conflicts=shutdown.target
Before=shutdown.target
ConditionVirtualization=vm

[Service]
ExecStartPre=-/sbin/modprobe -q vmw_vsock_virtio_transport
ExecStart=/usr/lib/popf/agent
Restart=on-failure
RestartSec=2
KillMode=process
RestartPreventExitStatus=3
SuccessExitStatus=3

[Install]
WantedBy=multi-user.target
END
    link popf-agent.service multi-user.target.wants
fi

# Folders that the host shares under a name that is a path (popf run --share HOST:/PATH).
cat >usr/lib/popf/mount-shares <<'END'
#!/bin/sh
# byte FILE OFFSET
byte() {
    od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' '
}

# put CONFIG OFFSET VALUE - a dword
put() {
    # shellcheck disable=SC2059 # four octal escapes
    printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $(($3 & 255)) $(($3 >> 8 & 255)) $(($3 >> 16 & 255)) 0)" |
        dd of="$1" bs=4 count=1 seek="$2" oflag=seek_bytes conv=notrunc status=none
}

# virtiofs_tag CONFIG - kernels before 6.9 do not show it: through the window of virtio 1.2, 4.1.4.9
virtiofs_tag() {
    at=$(byte "$1" 52) window=0 base=
    while [ "$at" -ge 64 ]; do
        if [ "$(byte "$1" "$at")" = 9 ]; then
            case $(byte "$1" $((at + 3))) in
            4)
                bar=$(byte "$1" $((at + 4)))
                base=$(od -An -tu4 -j $((at + 8)) -N 4 "$1" | tr -d ' ')
                ;;
            5) window=$at ;;
            esac
        fi
        at=$(byte "$1" $((at + 1)))
    done
    [ "$window" != 0 ] && [ -n "$base" ] || return 0
    put "$1" $((window + 4)) "$bar"
    put "$1" $((window + 12)) 4
    n=0
    while [ $n -lt 36 ]; do
        put "$1" $((window + 8)) $((base + n))
        dd if="$1" bs=4 count=1 skip=$((window + 16)) iflag=skip_bytes status=none
        n=$((n + 4))
    done | tr -d '\0'
}

for tag in /sys/bus/virtio/devices/*/mount_tag; do
    [ -r "$tag" ] || continue
    dir=$(tr -d '\0' <"$tag")
    case $dir in
    /?*)
        mkdir -p "$dir" && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 "$dir" "$dir"
        ;;
    esac
done
for dev in /sys/bus/pci/devices/*; do
    [ "$(cat "$dev/vendor" "$dev/device" | tr '\n' ' ')" = "0x1af4 0x105a " ] || continue
    dir=$(virtiofs_tag "$dev/config")
    case $dir in
    /?*) mkdir -p "$dir" && mount -t virtiofs "$dir" "$dir" ;;
    esac
done
END
chmod 755 usr/lib/popf/mount-shares
cat >lib/systemd/system/popf-shares.service <<END
[Unit]
Description=Folders shared by the host
DefaultDependencies=no
Requires=local-fs.target
After=local-fs.target systemd-udev-trigger.service
Before=multi-user.target shutdown.target
Conflicts=shutdown.target
ConditionVirtualization=vm

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=-/sbin/modprobe -q -a virtio_pci 9pnet_virtio 9p virtiofs
ExecStart=/usr/lib/popf/mount-shares

[Install]
WantedBy=multi-user.target
END
link popf-shares.service multi-user.target.wants

# --- what the boot loader reads ---

cat >usr/lib/popf/update-boot <<'END'
#!/bin/sh
# update-boot [ROOT] - writes /boot/extlinux/extlinux.conf for the kernels in /boot, newest first.
set -eu
root=${1:-}
. "$root/etc/default/popf-boot"
mkdir -p "$root/boot/extlinux"
{
    echo "# made by /usr/lib/popf/update-boot out of /etc/default/popf-boot"
    echo "DEFAULT debian"
    echo "TIMEOUT 0"
    label=debian
    for kernel in $(ls "$root/boot" | grep '^vmlinuz-' | sort -V -r); do
        version=${kernel#vmlinuz-}
        echo
        echo "LABEL $label"
        echo "    MENU LABEL Debian, Linux $version"
        echo "    LINUX /boot/$kernel"
        [ ! -e "$root/boot/initrd.img-$version" ] || echo "    INITRD /boot/initrd.img-$version"
        echo "    APPEND $BOOT_ARGS"
        label=linux-$version
    done
} >"$root/boot/extlinux/extlinux.conf.new"
mv "$root/boot/extlinux/extlinux.conf.new" "$root/boot/extlinux/extlinux.conf"
END
chmod 755 usr/lib/popf/update-boot
echo "BOOT_ARGS=\"root=LABEL=$LABEL $KARGS\"" >etc/default/popf-boot
for dir in etc/kernel/postinst.d etc/kernel/postrm.d; do
    mkdir -p $dir
    printf '#!/bin/sh\nexec /usr/lib/popf/update-boot\n' >$dir/zz-popf-boot
    chmod 755 $dir/zz-popf-boot
done
usr/lib/popf/update-boot "$ROOT"
# The kernel is read by a loader, as root or not; Debian's own modes stay.
chmod a+r boot/vmlinuz-*

# --- the file system ---

used=$(du -sk --apparent-size . | cut -f 1)
say "writing the file system ($((used / 1024)) MiB)"
if [ "$used" -gt "$((SIZE - SIZE / 10))" ]; then
    echo "E: $((used / 1024)) MiB of files do not fit into $((SIZE / 1024)) MiB: give a larger --size" >&2
    exit 1
fi
cd /
# The journal and the inode tables are written now, not by the guest's first boot.
mke2fs -q -F -t ext4 -L "$LABEL" -m 1 -d "$ROOT" \
    -E "offset=$OFFSET,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0" "$IMG" "${SIZE}k"
rm -rf "$ROOT"
