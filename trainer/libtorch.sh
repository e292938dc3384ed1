#!/bin/sh
# Installs the libtorch that the trainer is built with into .libtorch (about 570 MB), by pip and pinned by sha256.
#   trainer/libtorch.sh          for the CPU
#   trainer/libtorch.sh --cuda   keeps the CUDA part too (about 1.1 GB)
set -eu
cd "$(dirname "$0")/.."
target=.libtorch
if [ -e "$target" ]; then
    echo "$target is there already; remove it to install it again" >&2
    exit 0
fi
if [ "$(uname -m)" != x86_64 ]; then
    echo "libtorch.sh is for x86_64, this is $(uname -m): put a libtorch 2.11 at $target/torch by hand" >&2
    exit 1
fi
partial=$target.partial
rm -rf "$partial"
trap 'rm -rf "$partial"' EXIT
python3 -m pip install --quiet --no-deps --no-compile --require-hashes --only-binary=:all: \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux2014_x86_64 --target "$partial" -r trainer/libtorch.txt

# Headers and the libraries that a C++ program needs stay, Python's side goes.
cd "$partial"
find . -mindepth 1 -maxdepth 1 ! -name torch ! -name nvidia ! -name '*.dist-info' -exec rm -rf {} +
find torch -mindepth 1 -maxdepth 1 ! -name include ! -name lib ! -name share -exec rm -rf {} +
rm -rf torch/lib/libtorch_python.so torch/lib/libshm*
if [ "${1-}" != --cuda ]; then
    rm -f torch/lib/libtorch_cuda*.so torch/lib/libc10_cuda.so torch/lib/libtorch_nvshmem.so \
        torch/lib/libcaffe2_nvrtc.so
fi
cd ..
mv "$partial" "$target"
