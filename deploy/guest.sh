#!/bin/sh
# Makes a Debian 12 guest from Debian's own packages: guest.sh DIR leaves in DIR
#
#   disk.qcow2   a root file system without partitions, with cloud-init, an SSH
#                server and the QEMU guest agent
#   vmlinuz, initrd, cmdline   to boot it directly: they lie where the vm driver
#                looks for them
#   modules/     the kernel's modules, for guests that bring their own init
#
# It needs root, mmdebstrap, mke2fs and qemu-img, and a Debian mirror; it takes two
# to four minutes. A directory that has a guest is left as it is.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$1
[ ! -e "$dir/disk.qcow2" ] || exit 0
for tool in mmdebstrap:mmdebstrap mke2fs:e2fsprogs qemu-img:qemu-utils; do
	command -v "${tool%:*}" >/dev/null || { echo "$0: ${tool%:*} is missing; install the package ${tool#*:}" >&2; exit 3; }
done
mkdir -p "$dir"
work=$(mktemp -d "$dir/.new-XXXXXX")
trap 'rm -rf "$work"' EXIT
# One way to configure the network, ifupdown: systemd's would wait for minutes
# for a network that cloud-init gave to the other.
mmdebstrap --quiet --mode=root --variant=minbase --include=systemd-sysv,dbus,udev,cloud-init,openssh-server,linux-image-cloud-amd64,qemu-guest-agent,ifupdown,isc-dhcp-client,sudo,iproute2,netbase,kmod,procps,cloud-guest-utils,e2fsprogs \
	bookworm "$work/root.tar"
mkdir "$work/root"
tar -xf "$work/root.tar" -C "$work/root" --numeric-owner
rm "$work/root.tar"
cp "$work/root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$work/root"/boot/initrd.img-* "$work/initrd"
cp -r "$work/root"/usr/lib/modules/* "$work/modules"
echo 'root=/dev/vda rw console=ttyS0 net.ifnames=0' >"$work/cmdline"
mke2fs -q -t ext4 -L cloudimg-rootfs -d "$work/root" "$work/root.raw" 3G
qemu-img convert -f raw -O qcow2 "$work/root.raw" "$work/disk"
rm -rf "$work/root" "$work/root.raw" "$dir/modules"
mv "$work/vmlinuz" "$work/initrd" "$work/cmdline" "$work/modules" "$dir/"
mv "$work/disk" "$dir/disk.qcow2" # the last: it says that all is there
