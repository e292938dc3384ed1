#!/usr/bin/env bash
# Lays packages out as an apt repository, signed: `make apt-repo`. Needs dpkg-dev and gnupg.
#   deploy/apt/repo.sh KEY [DEB...]     KEY: the id of a secret key in gpg's keyring; packages: all in target/debian and target/cross
# Gives target/apt, to be copied to any web server. Two runs with the same packages and SOURCE_DATE_EPOCH give the same files but for the
# signatures, which hold their time.
set -euo pipefail
cd "$(dirname "$0")/../.."
key=${1:?the key to sign with: gpg --list-secret-keys}
shift
if [ $# -eq 0 ]; then
  shopt -s nullglob
  set -- target/debian/segd_*.deb target/cross/segd_*.deb
fi
[ $# -gt 0 ] || { echo "apt-repo: there is no package: \`make deb\` or \`make cross\` makes one" >&2; exit 1; }
for tool in dpkg-scanpackages gpg apt-config; do
  command -v "$tool" >/dev/null || { echo "apt-repo: $tool is missing: apt install dpkg-dev gnupg apt" >&2; exit 1; }
done
gpg --list-secret-keys "$key" >/dev/null 2>&1 || { echo "apt-repo: gpg has no secret key $key" >&2; exit 1; }
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export LC_ALL=C

root=target/apt
rm -rf "$root"
mkdir -p "$root/pool/main/s/segd"
architectures=""
for package in "$@"; do
  architecture=$(dpkg-deb --field "$package" Architecture)
  name=$(dpkg-deb --field "$package" Package)_$(dpkg-deb --field "$package" Version)_$architecture.deb
  [ ! -e "$root/pool/main/s/segd/$name" ] || { echo "apt-repo: two packages are $name: name one" >&2; exit 1; }
  install -m 644 "$package" "$root/pool/main/s/segd/$name"
  touch --date="@$SOURCE_DATE_EPOCH" "$root/pool/main/s/segd/$name"
  architectures=$(printf '%s\n%s\n' "$architectures" "$architecture" | sort -u | xargs)
done

cd "$root"
for architecture in $architectures; do
  folder=dists/stable/main/binary-$architecture
  mkdir -p "$folder"
  dpkg-scanpackages --multiversion --arch "$architecture" pool 2>/dev/null >"$folder/Packages"
  gzip --best --no-name --keep "$folder/Packages"
  printf 'Archive: stable\nComponent: main\nOrigin: segd\nLabel: segd\nArchitecture: %s\n' "$architecture" >"$folder/Release"
done
{
  printf 'Origin: segd\nLabel: segd\nSuite: stable\nCodename: stable\nComponents: main\nArchitectures: %s\n' "$architectures"
  printf 'Date: %s\nAcquire-By-Hash: no\nSHA256:\n' "$(date --utc --date="@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S UTC')"
  (cd dists/stable && find main -type f | sort | while read -r file; do
    printf ' %s %s %s\n' "$(sha256sum "$file" | cut -d' ' -f1)" "$(stat -c %s "$file")" "$file"
  done)
} >dists/stable/Release
gpg --batch --yes --local-user "$key" --digest-algo SHA512 --clearsign --output dists/stable/InRelease dists/stable/Release
gpg --batch --yes --local-user "$key" --digest-algo SHA512 --armor --detach-sign --output dists/stable/Release.gpg dists/stable/Release
gpg --batch --yes --export "$key" >segd-archive-keyring.gpg
echo "apt-repo: $root: $(find pool -name '*.deb' | wc -l) packages for $architectures"
