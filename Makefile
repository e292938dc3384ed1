# make run     camera (or a street clip) -> annotated video at rtsp://127.0.0.1:8554/segd
# make test    all checks and tests
# make build   target/release/segd
# Each target installs what it needs and says so. ARGS="..." is passed on to segd by `make run`.
.PHONY: run build test deps test-deps libtorch onnxruntime bench clean

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

clean:
	cargo clean
	rm -rf .ort .cache .libtorch
