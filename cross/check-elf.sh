#!/usr/bin/env bash
# Does a binary run where it is to run? Checks its machine, the glibc that its symbols need, and that it links nothing
# but what segd's package depends on. Usage: cross/check-elf.sh FILE aarch64|x86_64 GLIBC (2.35: JetPack 6, Ubuntu 22.04)
set -euo pipefail
if [ $# -ne 3 ] || [ ! -f "$1" ]; then
  echo "usage: $0 FILE aarch64|x86_64 GLIBC" >&2
  exit 2
fi
file=$1 machine=$2 newest=$3
# Everything else that segd uses is loaded at run time or linked into it.
allowed='libc.so.6 libm.so.6 libgcc_s.so.1 ld-linux-aarch64.so.1 ld-linux-x86-64.so.2
libglib-2.0.so.0 libgobject-2.0.so.0 libgio-2.0.so.0
libgstreamer-1.0.so.0 libgstbase-1.0.so.0 libgstapp-1.0.so.0 libgstvideo-1.0.so.0
libgstnet-1.0.so.0 libgstrtp-1.0.so.0 libgstrtsp-1.0.so.0 libgstsdp-1.0.so.0 libgstrtspserver-1.0.so.0'
readelf=readelf
command -v "$readelf" >/dev/null || { echo "check-elf: readelf is missing: apt install binutils" >&2; exit 1; }
failed=0
fail() { echo "check-elf: $file: $*" >&2; failed=1; }

header=$($readelf --file-header --wide "$file") || { echo "check-elf: $file is no ELF file" >&2; exit 1; }
case "$machine" in
aarch64) wanted='AArch64' ;;
x86_64) wanted='Advanced Micro Devices X86-64' ;;
*) echo "check-elf: unknown machine $machine" >&2; exit 2 ;;
esac
grep -q "Machine: *$wanted\$" <<<"$header" || fail "is not for $machine: $(grep 'Machine:' <<<"$header" | sed 's/.*: *//')"

versions=$($readelf --version-info --wide "$file" | grep -o 'GLIBC_[0-9][0-9.]*' | sed 's/GLIBC_//' | sort -Vu)
highest=$(tail -1 <<<"$versions")
if [ -z "$highest" ]; then
  fail "names no version of glibc"
elif [ "$(printf '%s\n%s\n' "$highest" "$newest" | sort -V | tail -1)" != "$newest" ]; then
  symbols=$($readelf --dyn-syms --wide "$file" | grep -o '[A-Za-z0-9_]*@GLIBC_[0-9.]*' | sort -u |
    while IFS=@ read -r name version; do
      version=${version#GLIBC_}
      [ "$(printf '%s\n%s\n' "$version" "$newest" | sort -V | tail -1)" = "$newest" ] || printf '%s (%s) ' "$name" "$version"
    done)
  fail "needs glibc $highest, $newest is there: $symbols"
fi

libraries=$($readelf --dynamic --wide "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
[ -n "$libraries" ] || fail "links no library"
for library in $libraries; do
  grep -qwF -- "$library" <<<"$allowed" || fail "links $library, which segd's package doesn't depend on"
done
[ "$failed" -eq 0 ] || exit 1
echo "check-elf: $file: $machine, glibc $highest or later (at most $newest), $(wc -w <<<"$libraries") libraries"
