#!/usr/bin/env bash
# Builds segd's image without a container daemon: `make image`. Needs root, buildah, and either a registry of images
# or debootstrap. Gives localhost/segd:ARCHITECTURE and target/container/segd-ARCHITECTURE.oci.tar.
#   deploy/container/image.sh [amd64|arm64]
# BASE=debian:bookworm-slim   the image to start from; without it one is made of Debian's packages (base.sh)
# SEGD=FILE                   the binary [target/release/segd; for arm64 target/cross/segd, of `make cross`]
# PLUGINS=, MODELS=           as in the Dockerfile
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$(dpkg --print-architecture)
architecture=${1:-$here}
case "$architecture" in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) echo "usage: $0 [amd64|arm64]" >&2; exit 2 ;;
esac
if [ "$architecture" = "$here" ]; then built=target/release/segd; else built=target/cross/segd; fi
binary=${SEGD:-$built}
say() { echo "image: $* (after $SECONDS s)"; }
die() { echo "image: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "needs root: sudo make image"
command -v buildah >/dev/null || die "buildah is missing: apt install buildah"
[ -f "$binary" ] || die "there is no $binary: \`make build\` makes it (\`make cross\` for arm64)"
# What Debian 12 has.
cross/check-elf.sh "$binary" "$machine" 2.36
export BUILDAH_ISOLATION=chroot

if [ -z "${BASE:-}" ]; then
  deploy/container/base.sh "$architecture"
  BASE=localhost/segd-base:$architecture
fi

# What the Dockerfile reads, and nothing else: each build copies it.
context=$PWD/.cache/container/context
rm -rf "$context"
mkdir -p "$context/target/container" "$context/deploy" "$context/.ort"
cp -r models "$context/"
cp -r deploy/container "$context/deploy/"
strip=strip
if [ "$architecture" != "$here" ]; then strip=$machine-linux-gnu-strip; fi
if command -v "$strip" >/dev/null; then
  "$strip" -o "$context/target/container/segd" "$binary"
else
  cp "$binary" "$context/target/container/segd"
fi
scripts/fetch.sh onnxruntime "$machine" ".cache/container/ort-$architecture"
cp -P ".cache/container/ort-$architecture"/libonnxruntime.so* ".cache/container/ort-$architecture/ThirdPartyNotices.txt" "$context/.ort/"

say "building $architecture"
arguments=()
if [ -n "${MODELS:-}" ]; then arguments+=(--build-arg "MODELS=$MODELS"); fi
if [ -n "${PLUGINS:-}" ]; then arguments+=(--build-arg "PLUGINS=$PLUGINS"); fi
buildah build --format docker --arch "$architecture" --layers --network host \
  --build-arg "BASE=$BASE" --build-arg BINARY=prebuilt "${arguments[@]}" \
  --file deploy/container/Dockerfile --tag "localhost/segd:$architecture" "$context" >.cache/container/buildah.log 2>&1 || { tail -20 .cache/container/buildah.log >&2; exit 1; }
rm -rf "$context"

mkdir -p target/container
archive=target/container/segd-$architecture.oci.tar
rm -f "$archive"
buildah push --quiet "localhost/segd:$architecture" "oci-archive:$archive:segd:$architecture"
say "$archive"
deploy/container/contents.sh "localhost/segd:$architecture"
