#!/usr/bin/env bash
# All checks and tests. Each step says what it is, and how long it took.
set -euo pipefail
cd "$(dirname "$0")/.."
export SEGD_REQUIRE_ORT=1 ORT_DYLIB_PATH="$PWD/.ort/libonnxruntime.so" SEGD_MODELS="$PWD/models" SEGD_CLIP="$PWD/.cache/bikes.mp4"
# scripts/deps.sh installs a browser on Debian; elsewhere the tests with one say that they were left out.
if grep -q '^ID=debian' /etc/os-release 2>/dev/null; then export SEGD_REQUIRE_BROWSER=1; fi
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

step() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name: $*"
  "$@"
  echo "== $name: $((SECONDS - start)) s"
}

step format cargo fmt --all --check
step lint cargo clippy --workspace --all-targets --locked -- -D warnings
step lint-minimal cargo clippy --no-default-features --locked -- -D warnings
step docs env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
step deny cargo deny --locked check bans licenses sources
# Both packages in one build: they share their dependencies. One test at a time: the trainer's tests seed the one
# random generator that libtorch has.
step test env RUST_TEST_THREADS=1 cargo test --workspace --locked --no-fail-fast
