#!/usr/bin/env bash
# What segd says if CUDA and TensorRT do not work: ONNX Runtime's own GPU libraries on a machine without a GPU. Each
# refusal is printed, and must name what is missing. 250 MB are fetched; with --cuda also NVIDIA's CUDA 13 libraries (2 GB
# on disk, in .cache/cuda13), so that the driver, and TensorRT, are what is missing.
# Usage: scripts/providers.sh [--cuda]     SEGD=... names another segd than target/release/segd or target/debug/segd.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -e /dev/nvidiactl ]; then echo "providers: this machine has a GPU" >&2; exit 2; fi
segd=""
for one in "${SEGD:-}" target/release/segd target/debug/segd; do
  if [ -n "$one" ] && [ -x "$one" ]; then segd=$one; break; fi
done
[ -n "$segd" ] || { echo "providers: no segd: \`make build\` first" >&2; exit 2; }
scripts/fetch.sh onnxruntime-gpu
ORT_DYLIB_PATH=$(echo "$PWD"/.cache/ortgpu/libonnxruntime.so.*)
export ORT_DYLIB_PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
picture=models/voc21/selftest.jpg
failed=0

# refused TEXT COMMAND...: it must end with 1 and say TEXT.
refused() {
  local text=$1 code=0
  shift
  echo "\$ segd $*"
  "$segd" "$@" >"$work/out" 2>&1 || code=$?
  cat "$work/out"
  if [ "$code" -ne 1 ] || ! grep -qF -- "$text" "$work/out"; then
    echo "providers: ended with $code, 1 and \"$text\" were expected" >&2
    failed=1
  fi
  echo
}

# says TEXT...: what was printed last.
says() {
  for text in "$@"; do
    grep -qF -- "$text" "$work/out" || { echo "providers: \"$text\" was expected" >&2; failed=1; }
  done
}

# all CUDA TENSORRT: what is missing for each.
all() {
  refused "$1" image "$picture" -o "$work/a.png" --backend ort --device cuda
  refused "$2" image "$picture" -o "$work/a.png" --backend ort --device tensorrt
  echo "\$ segd run --backend ort --device auto --input test:// --frames 90 --output $work/a.mkv"
  "$segd" run --backend ort --device auto --input test:// --frames 90 --output "$work/a.mkv" --http "" >"$work/out" 2>&1 || failed=1
  cat "$work/out"
  says "CUDA is not used: " "TensorRT is not used: " "$1" "$2"
  echo
  echo "\$ segd probe"
  "$segd" probe >"$work/out" 2>&1 || failed=1
  grep -A3 '^ort\|^missing' "$work/out" || true
  says "CUDA can't be used: $1" "TensorRT can't be used: $2"
  echo
}

echo "## A library that was built for the CPU alone"
if [ -f .ort/libonnxruntime.so ]; then
  ORT_DYLIB_PATH=$PWD/.ort/libonnxruntime.so refused "this library was built without CUDA" \
    image "$picture" -o "$work/a.png" --backend ort --device cuda
fi
echo "## Nothing of NVIDIA's is installed"
all "libonnxruntime_providers_cuda.so needs libcublasLt.so.13, which is not found" \
  "libonnxruntime_providers_tensorrt.so needs libcublas.so.13, which is not found"
echo "## A provider's library is not beside ONNX Runtime's"
cp "$ORT_DYLIB_PATH" .cache/ortgpu/libonnxruntime_providers_shared.so "$work/"
ORT_DYLIB_PATH=$work/$(basename "$ORT_DYLIB_PATH") refused "libonnxruntime_providers_cuda.so is not beside ONNX Runtime's library" \
  image "$picture" -o "$work/a.png" --backend ort --device cuda
if [ "${1:-}" = --cuda ]; then
  if [ ! -d .cache/cuda13 ]; then
    python3 -m pip install --quiet --disable-pip-version-check --target .cache/cuda13 \
      "nvidia-cuda-runtime==13.0.*" "nvidia-cublas==13.0.*" nvidia-curand nvidia-cufft nvidia-cudnn-cu13
  fi
  export LD_LIBRARY_PATH=$PWD/.cache/cuda13/nvidia/cu13/lib:$PWD/.cache/cuda13/nvidia/cudnn/lib
  echo "## CUDA is installed, the driver and TensorRT are not"
  all "libonnxruntime_providers_cuda.so needs libcuda.so.1, which is not found" \
    "libonnxruntime_providers_tensorrt.so needs libnvinfer.so.10, which is not found"
fi
exit "$failed"
