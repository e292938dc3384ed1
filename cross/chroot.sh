#!/usr/bin/env bash
# Makes the Debian 12 chroot in which segd is built for aarch64, once, in .cache/cross/root. Needs root (or sudo),
# debootstrap, 3 GB. SEGD_CROSS_MIRROR and SEGD_CROSS_SECURITY name other mirrors of Debian and its security suite.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=cross/packages.sh
. cross/packages.sh
out=$PWD/.cache/cross
root=$out/root
# What this file makes; another value makes the chroot anew.
version="1 $(sha256sum cross/packages.sh | cut -c1-16)"
if [ -f "$root/.segd-cross" ] && [ "$(cat "$root/.segd-cross")" = "$version" ]; then exit 0; fi

if [ "$(dpkg --print-architecture)" != amd64 ]; then
  echo "cross: the chroot is one of amd64; on an aarch64 machine use \`make deb\`" >&2
  exit 1
fi
command -v debootstrap >/dev/null || { echo "cross: debootstrap is missing: apt install debootstrap" >&2; exit 1; }
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
mkdir -p "$out"

echo "cross: debootstrap into $root (some minutes, once)"
$as_root rm -rf --one-file-system "$root"
$as_root debootstrap --arch=amd64 --variant=minbase --include=ca-certificates bookworm "$root" \
  ${SEGD_CROSS_MIRROR:+"$SEGD_CROSS_MIRROR"} \
  >"$out/debootstrap.log" 2>&1 || { tail -20 "$out/debootstrap.log" >&2; exit 1; }
# The mirror that debootstrap took, and the security suite beside it.
mirror=$(sed -n 's/^deb \([^ ]*\) bookworm main.*/\1/p' "$root/etc/apt/sources.list" | head -1)
security=${SEGD_CROSS_SECURITY:-${mirror%/}-security}
$as_root tee "$root/etc/apt/sources.list" >/dev/null <<SOURCES
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb $security bookworm-security main
SOURCES
# Services of packages have no business in here.
printf '#!/bin/sh\nexit 101\n' | $as_root tee "$root/usr/sbin/policy-rc.d" >/dev/null
$as_root chmod 755 "$root/usr/sbin/policy-rc.d"

in_root() { $as_root chroot "$root" env -i DEBIAN_FRONTEND=noninteractive LC_ALL=C HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
echo "cross: compilers, Rust and the board's libraries"
in_root dpkg --add-architecture arm64
in_root apt-get update -qq
# shellcheck disable=SC2086
in_root apt-get install -y -qq --no-install-recommends $tools $libraries $rust \
  >"$out/apt.log" 2>&1 || { tail -30 "$out/apt.log" >&2; exit 1; }
in_root rustc --version
echo "$version" | $as_root tee "$root/.segd-cross" >/dev/null
