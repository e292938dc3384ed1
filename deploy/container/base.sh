#!/usr/bin/env bash
# Makes an image of Debian 12 like debian:bookworm-slim out of Debian's packages alone, for machines that reach no registry of
# images: localhost/segd-base:ARCHITECTURE. Needs root, debootstrap, buildah; for another architecture qemu-user-static
# as well. SEGD_CONTAINER_MIRROR and SEGD_CONTAINER_SECURITY name other mirrors of Debian and of its security suite.
# Usage: deploy/container/base.sh amd64|arm64
set -euo pipefail
cd "$(dirname "$0")/../.."
architecture=${1:?amd64 or arm64}
out=$PWD/.cache/container
root=$out/base-$architecture
name=localhost/segd-base:$architecture
if buildah inspect --type image "$name" >/dev/null 2>&1; then exit 0; fi
here=$(dpkg --print-architecture)

echo "image: debootstrap into $root (some minutes, once)"
mkdir -p "$out"
rm -rf --one-file-system "$root"
mirror=${SEGD_CONTAINER_MIRROR:-}
bootstrap() {
  debootstrap --arch="$architecture" --variant=minbase --include=ca-certificates "$@" bookworm "$root" \
    ${mirror:+"$mirror"} >"$out/debootstrap-$architecture.log" 2>&1 ||
    { tail -20 "$out/debootstrap-$architecture.log" >&2; exit 1; }
}
if [ "$here" = "$architecture" ]; then
  bootstrap
else
  emulator=qemu-$([ "$architecture" = arm64 ] && echo aarch64 || echo x86_64)-static
  command -v "$emulator" >/dev/null || { echo "image: $emulator is missing: apt install qemu-user-static" >&2; exit 1; }
  bootstrap --foreign
  install -m 755 "$(command -v "$emulator")" "$root/usr/bin/$emulator"
  # Where the kernel does not start programs of the other architecture by itself, the second stage can't be run.
  chroot "$root" /debootstrap/debootstrap --second-stage >>"$out/debootstrap-$architecture.log" 2>&1 || {
    echo "image: this kernel runs no programs of $architecture (binfmt_misc); see docs/containers.md" >&2
    exit 1
  }
fi

mirror=$(sed -n 's/^deb \([^ ]*\) bookworm main.*/\1/p' "$root/etc/apt/sources.list" | head -1)
security=${SEGD_CONTAINER_SECURITY:-${mirror%/}-security}
cat >"$root/etc/apt/sources.list" <<SOURCES
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb $security bookworm-security main
SOURCES
# As debian:bookworm-slim: no documentation but the licences, no manuals, no translations, now and of packages to come.
cat >"$root/etc/dpkg/dpkg.cfg.d/docker" <<'SLIM'
force-unsafe-io
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/lintian/*
SLIM
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type d -empty -delete
rm -rf "$root"/usr/share/{locale,man,info,lintian}/* "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
  "$root"/var/cache/apt/*.bin "$root"/var/log/{bootstrap.log,dpkg.log,apt/*} "$root/usr/bin"/qemu-*-static

container=$(buildah from --arch "$architecture" scratch)
buildah add --quiet "$container" "$root" /
buildah config --cmd bash "$container"
buildah commit --quiet "$container" "$name" >/dev/null
buildah rm "$container" >/dev/null
rm -rf --one-file-system "$root"
echo "image: $name"
