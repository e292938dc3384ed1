#!/usr/bin/env bash
# What an image holds, in MB unpacked: in all, by part, and its largest files. Fails above the limit.
# Usage: deploy/container/contents.sh IMAGE [LIMIT_MB]
set -euo pipefail
image=${1:?an image}
limit=${2:-350}
container=$(buildah from --pull-never "$image")
trap 'buildah umount "$container" >/dev/null; buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
# Bytes of the files that a pattern names, a hard link once.
# shellcheck disable=SC2086
size() { (cd "$root" && du --apparent-size --bytes --summarize --total $1 | tail -1 | cut -f1); }
mb() { awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1e6 }'; }
all=$(size .)
ours=$(size usr/bin/segd)
models=$(size usr/share/segd/models)
ort=$(size usr/lib/segd)
plugins=$(size 'usr/lib/*-linux-gnu/gstreamer-1.0')
linked=$(cd "$root/var/lib/dpkg/status.d" && ls | wc -l)
printf '%8s MB  in all\n' "$(mb "$all")"
printf '%8s MB  segd\n%8s MB  models\n%8s MB  ONNX Runtime\n%8s MB  plugins of GStreamer\n' \
  "$(mb "$ours")" "$(mb "$models")" "$(mb "$ort")" "$(mb "$plugins")"
printf '%8s MB  the base, and libraries of %s packages\n' "$(mb $((all - ours - models - ort - plugins)))" "$linked"
echo "largest files:"
# `head` may close the pipe early.
(cd "$root" && find . -xdev -type f -printf '%s %p\n' | sort -rn || true) 2>/dev/null | sed -n '1,12p' |
  while read -r bytes path; do printf '%8s MB  %s\n' "$(mb "$bytes")" "${path#.}"; done
if [ "$all" -gt $((limit * 1000000)) ]; then
  echo "contents: $(mb "$all") MB is more than $limit MB" >&2
  exit 1
fi
