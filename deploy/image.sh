#!/bin/sh
# Makes a small container image with nothing but a shell: image.sh DIR leaves an
# OCI layout in DIR, which a job names as oci-layout:/whole/path/of/DIR. It asks
# no registry, needs no engine and not to be root. In the image is busybox, a
# static program of 2 MB that is a shell and the usual tools (Debian and Ubuntu:
# the package busybox-static); image.sh DIR PROGRAM takes another file for it.
# A directory that has an image is left as it is.
set -eu
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: $0 DIR [PROGRAM]" >&2; exit 2; }
dir=$1
program=${2:-$(command -v busybox || true)}
[ -n "$program" ] || { echo "$0: busybox is missing; install the package busybox-static" >&2; exit 3; }
[ ! -e "$dir/index.json" ] || exit 0
if ldd "$program" >/dev/null 2>&1; then
	echo "$0: $program needs libraries, and the image has none; install the package busybox-static" >&2
	exit 3
fi
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac
mkdir -p "$dir/blobs/sha256"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# blob puts a file to where its digest says, and leaves digest and size.
blob() {
	digest=$(sha256sum "$1" | cut -d' ' -f1)
	size=$(wc -c <"$1" | tr -d ' ')
	cp "$1" "$dir/blobs/sha256/$digest"
}

for sub in bin dev etc proc run sys tmp; do
	mkdir -p "$work/root/$sub"
done
cp "$program" "$work/root/bin/busybox"
chmod 755 "$work/root/bin/busybox"
for tool in sh cat cp date echo env grep head hostname httpd id ls mkdir nc ps rm sed sha256sum sleep sync test top uname wc wget; do
	ln -s busybox "$work/root/bin/$tool"
done
: >"$work/root/etc/hosts"
: >"$work/root/etc/resolv.conf"
# The same program gives the same image: no time and nobody's name is in it.
tar --sort=name --mode=a+rX,go-w --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer" -C "$work/root" .
blob "$work/layer"
layer=$digest layer_size=$size
# https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
	"$arch" "$layer" >"$work/config"
blob "$work/config"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
	"$digest" "$size" "$layer" "$layer_size" >"$work/manifest"
blob "$work/manifest"
printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"}}]}' \
	"$digest" "$size" "$arch" >"$work/index.json"
mv "$work/index.json" "$dir/index.json" # the last: it says that all is there
