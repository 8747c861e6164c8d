#!/usr/bin/env bash
# What the tests and the README's examples need of the machine besides Go. On Debian and Ubuntu, as root,
# what is missing is installed: no daemon is started by it, no rule of the network
# changed, and the kernel for guests is unpacked beside the system, so that the
# machine boots as it did. Elsewhere what is missing is named, and the tests that
# need it skip. It is quick where all is there.
set -euo pipefail
programs=(dockerd:docker.io podman:podman runc:runc nft:nftables ip:iproute2 qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils
	mmdebstrap:mmdebstrap mke2fs:e2fsprogs ssh:openssh-client cpio:cpio busybox:busybox-static)
kernel=/usr/local/share/sovmesh/kernel
export PATH=$PATH:/usr/sbin:/sbin

missing=()
for p in "${programs[@]}"; do
	command -v "${p%%:*}" >/dev/null || missing+=("${p##*:}")
done
[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || [ -e /usr/share/OVMF/OVMF_CODE.fd ] || missing+=(ovmf)
bootable() { compgen -G '/boot/vmlinuz-*-cloud-amd64' >/dev/null || compgen -G "$kernel/boot/vmlinuz-*-cloud-amd64" >/dev/null; }

if [ ${#missing[@]} = 0 ] && bootable; then
	exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	bootable || missing+=(linux-image-cloud-amd64)
	echo "missing for some tests, and not installed (that needs root on Debian or Ubuntu): ${missing[*]}"
	exit 0
fi

tmp=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
own=
trap 'rm -rf "$tmp"; [ -z "$own" ] || rm -f "$policy"' EXIT
if [ ! -e "$policy" ]; then # asks not to start what is installed: invoke-rc.d(8)
	own=1
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true # what is known already may do
for package in "${missing[@]}"; do
	apt-get install -qq -y --no-install-recommends "$package" >/dev/null || echo "could not be installed: $package"
done
if ! bootable; then
	image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ {print $2; exit}' || true)
	if [ -n "$image" ] && (cd "$tmp" && apt-get download -qq "$image" >/dev/null) && dpkg-deb -x "$tmp"/*.deb "$tmp/root"; then
		mkdir -p "$kernel"
		cp -a "$tmp/root/." "$kernel/"
	else
		echo "could not be fetched: the kernel for guests, linux-image-cloud-amd64"
	fi
fi
