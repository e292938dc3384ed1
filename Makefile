# make run     camera (or a street clip) -> annotated video at rtsp://127.0.0.1:8554/segd
# make test    all checks and tests
# make build   target/release/segd
# make bench-peers   segd beside other software, same clip and network
# Each target installs what it needs and says so. ARGS="..." is passed on to segd by `make run`.
.PHONY: run build test deps test-deps libtorch onnxruntime bench bench-peers clean

CARGO_DENY_VERSION = 0.20.2

run: build onnxruntime
	@scripts/run.sh $(ARGS)

build: deps
	cargo build --release --locked

deps:
	@scripts/deps.sh run

onnxruntime: deps
	@scripts/fetch.sh onnxruntime

test: test-deps onnxruntime libtorch
	@scripts/fetch.sh clip
	@scripts/test.sh

test-deps:
	@scripts/deps.sh test
	@cargo deny --version 2>/dev/null | grep -qx 'cargo-deny $(CARGO_DENY_VERSION)' || { echo "deps: installing cargo-deny (licence and source checks)"; cargo install --quiet --locked cargo-deny@$(CARGO_DENY_VERSION); }

# libtorch for the trainer only; segd does not use it.
libtorch: deps
	@trainer/libtorch.sh

bench: deps onnxruntime
	cargo bench --locked --bench kernels

# segd beside a Python loop with the same network and clip; PEERS="--rounds 5" is passed on.
bench-peers: build onnxruntime
	@scripts/deps.sh test
	@scripts/fetch.sh clip
	@test -x .cache/peers/venv/bin/python || python3 -m venv .cache/peers/venv
	.cache/peers/venv/bin/pip install --quiet --disable-pip-version-check -r benches/peers/requirements.txt
	.cache/peers/venv/bin/python benches/peers/compare.py $(PEERS)

clean:
	cargo clean
	rm -rf .ort .cache .libtorch
