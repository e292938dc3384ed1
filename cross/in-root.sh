#!/usr/bin/env bash
# Runs a shell command inside the chroot of cross/chroot.sh with what a cross build needs. Usage: cross/in-root.sh COMMAND
set -euo pipefail
cd "$(dirname "$0")/.."
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
# Where crates come through a proxy its settings go along.
exec $as_root chroot .cache/cross/root env -i LC_ALL=C HOME=/root PATH=/opt/cargo-deb/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  ${https_proxy:+https_proxy="$https_proxy"} ${http_proxy:+http_proxy="$http_proxy"} \
  CARGO_TERM_COLOR=never \
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
  CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
  CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++ \
  AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar \
  PKG_CONFIG_ALLOW_CROSS=1 \
  PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig \
  BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="-I/usr/include/aarch64-linux-gnu" \
  sh -ec "$1"
