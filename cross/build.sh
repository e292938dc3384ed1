#!/usr/bin/env bash
# Builds segd and its Debian package for aarch64 (JetPack 6, Raspberry Pi OS 12, Debian 12) on an x86-64 Debian or
# Ubuntu, without Docker and without a Rust toolchain of its own: `make cross`. Needs root (or sudo), debootstrap, 8 GB.
# Gives target/cross/segd and target/cross/segd_*_arm64.deb.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/.cache/cross
root=$out/root
target=aarch64-unknown-linux-gnu
cargo_deb=$(sed -n 's/^CARGO_DEB_VERSION = //p' Makefile)
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
say() { echo "cross: $* (after $SECONDS s)"; }

cross/chroot.sh
# ONNX Runtime of the board's architecture goes into the package.
scripts/fetch.sh onnxruntime aarch64 "$out/ort"

# The sources as git has them, changes and new files included. `target` stays from build to build.
say "sources"
$as_root mkdir -p "$root/build/segd"
$as_root find "$root/build/segd" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf --one-file-system {} +
git ls-files --cached --others --exclude-standard -z |
  while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
  tar --create --null --files-from=- --file=- |
  $as_root tar --extract --no-same-owner --directory="$root/build/segd"
$as_root mkdir -p "$root/build/segd/.ort"
$as_root cp -P "$out"/ort/libonnxruntime.so* "$out"/ort/ThirdPartyNotices.txt "$root/build/segd/.ort/"
# This machine's resolver, and its own certificate authorities, which a proxy may need.
$as_root cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
if compgen -G "/usr/local/share/ca-certificates/*.crt" >/dev/null; then
  $as_root cp -L /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
  $as_root chroot "$root" update-ca-certificates >/dev/null 2>&1
fi

say "building segd for $target"
cross/in-root.sh "cd /build/segd && cargo build --release --locked --target $target --package segd"

say "Debian package"
# cargo-deb is of this machine: the board's libraries are not for it.
cross/in-root.sh "cargo deb --version 2>/dev/null | grep -qx '$cargo_deb' || \
  env -u PKG_CONFIG_LIBDIR cargo install --quiet --locked cargo-deb@$cargo_deb --root /opt/cargo-deb"
cross/in-root.sh "cd /build/segd && rm -rf target/$target/debian && \
  cargo deb --no-build --locked --target $target --package segd"

mkdir -p target/cross
rm -f target/cross/segd target/cross/segd_*.deb
cp "$root/build/segd/target/$target/release/segd" target/cross/segd
cp "$root/build/segd/target/$target/debian"/segd_*_arm64.deb target/cross/
cross/check-elf.sh target/cross/segd aarch64 2.35
ls -l target/cross
say "done"
