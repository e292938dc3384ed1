#!/usr/bin/env bash
# Does apt take what repo.sh lays out, and nothing that was changed since? In folders of its own, with a key made for it.
# Usage: deploy/apt/test.sh DEB...
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "usage: $0 DEB..." >&2; exit 2; }
work=$(mktemp -d)
trap 'gpgconf --kill gpg-agent >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
die() { echo "test-apt: $*" >&2; exit 1; }
export GNUPGHOME=$work/gpg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'segd test <segd@localhost>' ed25519 sign never 2>/dev/null
packages=()
for package in "$@"; do packages+=("$(realpath "$package")"); done

deploy/apt/repo.sh segd@localhost "${packages[@]}"
find target/apt -type f ! -name '*Release*' -o -name Release | sort | xargs sha256sum >"$work/first"
deploy/apt/repo.sh segd@localhost "${packages[@]}" >/dev/null
find target/apt -type f ! -name '*Release*' -o -name Release | sort | xargs sha256sum >"$work/second"
cmp "$work/first" "$work/second" || die "two runs give different files"

# apt with this repository alone.
chmod 755 "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/etc" "$work/out"
cp -r target/apt "$work/repo"
chmod -R a+rX "$work/repo"
printf 'deb [signed-by=%s/repo/segd-archive-keyring.gpg] file:%s/repo stable main\n' "$work" "$work" >"$work/apt/etc/sources.list"
apt_here() {
  apt-get -o Dir::Etc::SourceList="$work/apt/etc/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$work/apt/lists" \
    -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}
apt_here update -qq
(cd "$work/out" && apt_here download -qq segd)
cmp "$work"/out/segd_*.deb "$work"/repo/pool/main/s/segd/*"$(dpkg --print-architecture)".deb || die "apt gives another package"
# One byte changed.
sed -i 's/^Origin: segd$/Origin: segx/' "$work/repo/dists/stable/InRelease"
rm -rf "$work/apt/lists"/*
mkdir -p "$work/apt/lists/partial"
if apt_here update -qq 2>"$work/err" && ! grep -qi 'signature\|BADSIG' "$work/err"; then die "apt takes a list that was changed"; fi
echo "test-apt: apt takes the package and refuses a changed list"
