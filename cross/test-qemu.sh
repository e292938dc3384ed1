#!/usr/bin/env bash
# Runs what `make cross` built, under QEMU's emulation of an aarch64 processor: `make test-cross`. Needs root (or sudo),
# qemu-user-static and ffmpeg, and a segd for this machine to compare with ($SEGD, else target/release/segd, target/debug/segd).
#   unit tests             all of the library's, with fewer cases of property tests
#   segd probe
#   segd image             every shipped model, tract and ONNX Runtime: labels equal to this machine's
#   segd run               RTSP out, read by ffprobe and ffmpeg outside
# Usage: cross/test-qemu.sh [units|probe|image|rtsp ...]    SEGD_QEMU_MODELS="voc21 ..." names the models, SEGD_QEMU_CPU the processor.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/.cache/cross/root
target=aarch64-unknown-linux-gnu
# Cortex-A76 is what a Raspberry Pi 5 has, and near to a Jetson Orin's Cortex-A78AE.
cpu=${SEGD_QEMU_CPU:-cortex-a76}
# What segd's package depends on besides the libraries that it was built with.
runtime=$(printf 'gstreamer1.0-%s:arm64 ' plugins-base plugins-good plugins-bad plugins-ugly libav)
port=${SEGD_QEMU_PORT:-18554}
read -ra wanted <<<"${*:-probe image rtsp units}"
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo"; fi
say() { echo "test-cross: $* (after $SECONDS s)"; }
die() { echo "test-cross: $*" >&2; exit 1; }

[ -x "$root/build/segd/target/$target/release/segd" ] || die "nothing is built: run \`make cross\` first"
emulator=$(command -v qemu-aarch64-static) || die "qemu-aarch64-static is missing: apt install qemu-user-static"
here=""
for one in "${SEGD:-}" target/release/segd target/debug/segd; do
  if [ -n "$one" ] && [ -x "$one" ]; then here=$one; break; fi
done
export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$PWD/.ort/libonnxruntime.so}
[ -n "$here" ] || die "no segd of this machine to compare with: \`make build\`, or SEGD=..."

if [ ! -f "$root/.segd-runtime" ] || [ "$(cat "$root/.segd-runtime")" != "$runtime" ]; then
  say "installing the board's packages in the chroot"
  # shellcheck disable=SC2086
  $as_root chroot "$root" env -i DEBIAN_FRONTEND=noninteractive LC_ALL=C HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    apt-get install -y -qq --no-install-recommends $runtime >.cache/cross/runtime.log 2>&1 ||
    { tail -30 .cache/cross/runtime.log >&2; exit 1; }
  echo "$runtime" | $as_root tee "$root/.segd-runtime" >/dev/null
fi
$as_root install -m 755 "$emulator" "$root/usr/bin/qemu-aarch64-static"
work=$root/build/qemu
$as_root rm -rf "$work"
$as_root install -d -m 777 "$work"

# A program of the board in the chroot, with /proc and /dev, in a mount namespace of its own. GStreamer's registry is not
# read in a second process, which would be of this machine's architecture.
on_board() {
  # shellcheck disable=SC2016
  $as_root unshare --mount bash -ec '
    root=$1; shift
    mount --rbind /proc "$root/proc"; mount --rbind /dev "$root/dev"
    exec chroot "$root" env -i HOME=/build/qemu PATH=/usr/bin:/bin LC_ALL=C QEMU_CPU="$1" GST_REGISTRY_FORK=no \
      GST_REGISTRY=/build/qemu/registry.bin ORT_DYLIB_PATH=/build/segd/.ort/libonnxruntime.so PROPTEST_CASES=8 SEGD_LOG="$2" \
      sh -ec "cd /build/segd; exec /usr/bin/qemu-aarch64-static \"\$@\"" board "${@:3}"
  ' board "$root" "$cpu" "${SEGD_LOG:-warn}" "$@"
}
segd=/build/segd/target/$target/release/segd

units() {
  say "building the unit tests"
  # As cross/build.sh builds the binary.
  cross/in-root.sh "cd /build/segd && cargo test --release --locked --target $target --package segd --lib --no-run \
    --message-format=json" >.cache/cross/tests.json
  local tests
  tests=$(python3 -c '
import json, sys
files = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print([f["executable"] for f in files if f.get("executable") and f["target"]["name"] == "segd" and f["profile"]["test"]][-1])
' <.cache/cross/tests.json)
  say "unit tests on $cpu"
  on_board "$tests" --test-threads=2 2>&1 | tail -40
}

image() {
  local failed=0
  local model backend least share folder
  for model in ${SEGD_QEMU_MODELS:-$(ls models)}; do
    folder=models/$model
    for backend in tract tract-int8 ort ort-int8; do
      # ONNX Runtime's 8-bit kernels round in other ways on each processor; the self-test holds them to the model's own limit.
      least=0.999
      local args=(--model "$folder" --backend "${backend%-int8}" --precision fp32 --visualize labels)
      if [ "${backend%-int8}" != "$backend" ]; then args[5]=int8; fi
      if [ "$backend" = ort-int8 ]; then least=0.95; fi
      local out=$model-$backend.png
      on_board "$segd" image "$folder/selftest.jpg" -o "/build/qemu/$out" "${args[@]}"
      "$here" image "$folder/selftest.jpg" -o ".cache/cross/$out" "${args[@]}"
      share=$(cross/same-labels.py "$work/$out" ".cache/cross/$out" "$least") || failed=1
      say "image: $model, $backend: $share as on $(uname -m)"
    done
  done
  [ "$failed" -eq 0 ] || die "other labels than on $(uname -m)"
}

rtsp() {
  say "rtsp: segd serves a made picture of 320x240"
  local url=rtsp://127.0.0.1:$port/segd
  SEGD_LOG=info on_board "$segd" run --input test:// --width 320 --height 240 --fps 5 --size 128 --http "" \
    --output "$url" >.cache/cross/rtsp.log 2>&1 &
  local server=$! found=""
  # Ends with this script, whatever happens.
  # shellcheck disable=SC2064
  trap "$as_root pkill -TERM -P $server 2>/dev/null || true" EXIT
  for _ in $(seq 90); do
    if found=$(ffprobe -v error -rtsp_transport tcp -show_entries stream=codec_name,width,height -of csv=p=0 "$url" 2>/dev/null) &&
      [ -n "$found" ]; then break; fi
    kill -0 "$server" 2>/dev/null || { cat .cache/cross/rtsp.log >&2; die "segd has ended"; }
    sleep 2
  done
  [ "$found" = h264,320,240 ] || { cat .cache/cross/rtsp.log >&2; die "rtsp: ffprobe sees \"$found\", not h264,320,240"; }
  say "rtsp: ffprobe sees $found"
  ffmpeg -v error -y -rtsp_transport tcp -i "$url" -frames:v 20 -f framemd5 .cache/cross/rtsp.md5
  ffmpeg -v error -y -rtsp_transport tcp -i "$url" -frames:v 1 .cache/cross/rtsp.png
  local pictures
  pictures=$(grep -v '^#' .cache/cross/rtsp.md5 | awk '{print $NF}' | sort -u | wc -l)
  [ "$pictures" -ge 10 ] || die "rtsp: only $pictures different pictures of 20"
  say "rtsp: 20 pictures decoded, $pictures of them different"
  $as_root pkill -TERM -P "$server" || true
  wait "$server" || { tail -5 .cache/cross/rtsp.log >&2; die "segd did not end well"; }
  trap - EXIT
  grep -h 'status\|ready\|encoder' .cache/cross/rtsp.log | tail -5
}

probe() {
  on_board "$segd" probe 2>&1
}

for one in "${wanted[@]}"; do
  case "$one" in
  units | image | rtsp | probe) "$one" ;;
  *) die "unknown: $one" ;;
  esac
done
say "done"
