#!/bin/sh
# Runs in a stage of the Dockerfile that has segd and all packages it could use. Gathers in $1 what segd does use: its
# binary, the plugins of plugins.txt, what they link, and nothing that the base image has already. Each package of
# which something is taken is named in /var/lib/dpkg/status.d, where scanners for known holes look, and keeps its licence.
# Usage: pick.sh OUT BEFORE PLUGINS [more plugins]    BEFORE lists the base's packages: dpkg-query -W
set -eu
out=$1 before=$2 list=$3
shift 3
lib=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || ls /usr/lib | grep -m 1 -- '-linux-gnu$')

taken=/tmp/taken
: >"$taken"
# A file, and the links that lead to it.
take() {
  echo "$1" >>"$taken"
  while [ -L "$1" ]; do
    next=$(readlink "$1")
    case "$next" in /*) ;; *) next=$(dirname "$1")/$next ;; esac
    set -- "$next"
    echo "$1" >>"$taken"
  done
}

for plugin in $(sed 's/#.*//' "$list") "$@"; do
  file=$lib/gstreamer-1.0/libgst${plugin#\?}.so
  if [ -f "$file" ]; then
    take "$file"
  elif [ "$plugin" = "${plugin#\?}" ]; then
    echo "pick: there is no plugin $plugin ($file)" >&2
    exit 1
  fi
done
# What is loaded by name: the process that looks at plugins, TLS for rtsps://, and its authorities.
take "$lib/gstreamer1.0/gstreamer-1.0/gst-plugin-scanner"
take "$lib/gio/modules/libgiognutls.so"
take "$lib/gio/modules/giomodule.cache"
take /usr/bin/segd
# The machine that an ELF file is for, as a number.
machine() { od -An -tx2 -j18 -N2 "$1" | tr -d ' '; }
for file in /usr/lib/segd/libonnxruntime.so*; do
  if [ ! -e "$file" ]; then continue; fi
  if [ "$(machine "$file")" != "$(machine /usr/bin/segd)" ]; then
    echo "pick: ONNX Runtime in .ort is for another architecture: scripts/fetch.sh onnxruntime ARCHITECTURE" >&2
    exit 1
  fi
  take "$file"
done

# What those link, directly or not.
grep -v 'giomodule.cache' "$taken" | sort -u | xargs ldd 2>/dev/null |
  awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// && $2 ~ /^\(/ { print $1 }' | sort -u >/tmp/linked
if grep -v 'giomodule.cache' "$taken" | sort -u | xargs ldd 2>/dev/null | grep 'not found'; then
  echo "pick: a library is missing" >&2
  exit 1
fi
while read -r file; do take "$file"; done </tmp/linked

mkdir -p "$out/var/lib/dpkg/status.d"
# /lib is a link to /usr/lib, and packages say either.
sed -E 's,^/(lib|lib64|bin|sbin)/,/usr/\1/,' "$taken" | sort -u | while read -r file; do
  package=$({ dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "${file#/usr}" 2>/dev/null || true; } | head -1 | cut -d: -f1)
  if [ -n "$package" ]; then
    version=$(dpkg-query -W -f '${Package} ${Version}\n' "$package" | head -1)
    if grep -qxF "$version" "$before"; then continue; fi
    if [ ! -f "$out/var/lib/dpkg/status.d/$package" ]; then
      dpkg-query -s "$package" | sed '/^Conffiles:/,/^[A-Z]/{/^Conffiles:/d;/^ /d}' >"$out/var/lib/dpkg/status.d/$package"
      if [ -f "/usr/share/doc/$package/copyright" ]; then
        mkdir -p "$out/usr/share/doc/$package"
        cp -L "/usr/share/doc/$package/copyright" "$out/usr/share/doc/$package/copyright"
      fi
    fi
  fi
  mkdir -p "$out$(dirname "$file")"
  cp -dp "$file" "$out$file"
done
find "$out" -type f | wc -l | sed 's/^/pick: files: /'
du -sm "$out" | sed 's/\t.*/ MB/; s/^/pick: in all: /'
