#!/usr/bin/env bash
# Runs each fuzz target of fuzz/ for SECONDS (60). Usage: scripts/fuzz.sh [SECONDS [TARGET...]]
# A stable toolchain is enough: libFuzzer (built from libfuzzer-sys, with a C++ compiler) needs LLVM's coverage pass and no
# sanitizer, and segd's own parsing has no unsafe code that one would watch. Findings are left in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cd fuzz_targets && ls ./*.rs | sed -e 's|^./||' -e 's|\.rs$||')
fi
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes, less the sanitizer. With --target they don't reach build scripts.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
# Not --locked: fuzz/Cargo.lock follows segd's own dependencies.
RUSTFLAGS="$coverage" cargo build --release --target "$host"
./seeds.py
for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" "artifacts/$target"
  echo "fuzz: $target, $seconds s"
  "target/$host/release/$target" "corpus/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 2>"artifacts/$target.log" ||
    { tail -30 "artifacts/$target.log" >&2; exit 1; }
  grep -E '^stat::number_of_executed_units|^stat::peak_rss_mb' "artifacts/$target.log"
  tail -200 "artifacts/$target.log" | grep -E 'DONE' || true
done
