#!/usr/bin/env bash
# Runs segd on the camera if there is one, else on a street clip, looped, with this folder's models and ONNX Runtime.
# Arguments are passed on to segd.
set -euo pipefail
cd "$(dirname "$0")/.."
# segd takes neither from the working directory unless they are named.
export SEGD_MODELS="${SEGD_MODELS:+$SEGD_MODELS:}$PWD/models"
if [ -z "${ORT_DYLIB_PATH:-}" ] && [ -e .ort/libonnxruntime.so ]; then
  export ORT_DYLIB_PATH="$PWD/.ort/libonnxruntime.so"
fi
camera=""
for device in /dev/video*; do
  if [ -c "$device" ]; then camera=$device; break; fi
done
for argument in "$@"; do
  case "$argument" in --camera | --camera=* | --input | --input=*) exec target/release/segd "$@" ;; esac
done
if [ -n "$camera" ]; then
  exec target/release/segd --camera "$camera" "$@"
fi
scripts/fetch.sh clip
echo "run: no camera found (/dev/video*); playing a street clip in a loop instead"
exec target/release/segd --input .cache/bikes.mp4 --loop "$@"
