#!/usr/bin/env bash
# Runs segd on the camera if there is one, else on a street clip, looped. Arguments are passed on to segd.
set -euo pipefail
cd "$(dirname "$0")/.."
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
