#!/usr/bin/env bash
# All checks and tests. Each step says what it is, and how long it took.
set -euo pipefail
cd "$(dirname "$0")/.."
export SEGD_REQUIRE_ORT=1 ORT_DYLIB_PATH="$PWD/.ort/libonnxruntime.so" SEGD_MODELS="$PWD/models" SEGD_CLIP="$PWD/.cache/bikes.mp4"
# scripts/deps.sh installs a browser on Debian; elsewhere the tests with one say that they were left out.
if grep -q '^ID=debian' /etc/os-release 2>/dev/null; then export SEGD_REQUIRE_BROWSER=1; fi
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

step() {
  local name=$1 start=$SECONDS status=0
  shift
  echo "== $name: $*"
  "$@" || status=$?
  echo "== $name: $((SECONDS - start)) s"
  return "$status"
}

step format cargo fmt --all --check
step lint cargo clippy --workspace --all-targets --locked -- -D warnings
step lint-minimal cargo clippy --no-default-features --locked -- -D warnings
step docs env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
step deny cargo deny --locked check bans licenses sources
step compile cargo test --workspace --locked --no-run

# Two streams run side by side: most tests have one thread, or wait. Within a stream one test runs at a time: the trainer's
# tests seed the one random generator that libtorch has. Every call names the whole workspace: with fewer packages,
# dependencies have other features and are built again.
export RUST_TEST_THREADS=1
shopt -s nullglob

# The options of cargo that name these files' tests.
named() {
  basename -s .rs "$@" | sed 's/^/--test=/'
}

# The daemon's test programs.
daemon() {
  local programs
  mapfile -t programs < <(named tests/*.rs)
  step daemon cargo test --workspace --locked --no-fail-fast "${programs[@]}"
}

# All other tests; the daemon's play live video and go first.
others() {
  local programs failed=0
  mapfile -t programs < <(named trainer/tests/*.rs crates/*/tests/*.rs)
  step others nice -n 3 cargo test --workspace --locked --no-fail-fast --lib --bins "${programs[@]}" || failed=1
  step documentation nice -n 3 cargo test --workspace --locked --no-fail-fast --doc || failed=1
  return "$failed"
}

# Ends what is left of a stream, whose process group has this number.
end() {
  kill -- "-$1" 2>/dev/null || return 0
  sleep 2
  kill -KILL -- "-$1" 2>/dev/null || true
}

streams=()
trap 'trap "" HUP INT TERM; for stream in "${streams[@]}"; do end "$stream"; done' EXIT
trap 'exit 130' HUP INT TERM
logs=${CARGO_TARGET_DIR:-target}/tests
mkdir -p "$logs"
echo "== tests: two streams, each printed when it ends; until then $logs/*.log"
# Gives each stream a process group.
set -m
others >"$logs/others.log" 2>&1 </dev/null &
streams+=($!)
daemon >"$logs/daemon.log" 2>&1 </dev/null &
streams+=($!)
set +m

# The shorter one first.
failed=0
for name in others daemon; do
  wait "${streams[0]}" || failed=1
  end "${streams[0]}"
  streams=("${streams[@]:1}")
  cat "$logs/$name.log"
done
exit "$failed"
