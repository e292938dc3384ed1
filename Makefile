# make run     camera (or a street clip) -> annotated video at rtsp://127.0.0.1:8554/segd
# make test    all checks and tests
# make build   target/release/segd
# make trainer the same and target/release/segd-train
# make bench-peers   segd beside other software, same clip and network
# make deb     target/debian/segd_*.deb
# make cross   the same package for aarch64, from x86-64 (needs root, debootstrap)
# make test-cross  runs that under QEMU: unit tests, pictures, RTSP, beside this machine's build
# make test-camera  the camera tests alone in a virtual machine with a virtual camera (needs root, debootstrap, QEMU)
# make test-vm the same with the package, systemd and 100 unplugs (CI runs it after `make test`)
# make image   an OCI image, without a container daemon (needs root, buildah): target/container/; SEGD_ARCH=arm64 after `make cross`
# make test-image  runs it under crun and looks at its video
# make apt-repo KEY=...   target/apt: the packages as a signed apt repository
# make test-deploy  the Helm chart against Kubernetes' schemas
# make fuzz    each fuzz target for a minute (SECONDS=...)
# make soak    45 minutes under clients that misbehave
# Each target installs what it needs and says so. ARGS="..." is passed on to segd by `make run`.
.PHONY: run build trainer image test-image test-deploy apt-repo deb cross test-cross cargo-deb test test-camera test-vm vm-deps cross-deps soak fuzz deps test-deps libtorch onnxruntime bench bench-peers clean

CARGO_DENY_VERSION = 0.20.2
CARGO_DEB_VERSION = 3.8.0

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

cargo-deb:
	@cargo deb --version 2>/dev/null | grep -qx '$(CARGO_DEB_VERSION)' || { echo "deps: installing cargo-deb (makes the package)"; cargo install --quiet --locked cargo-deb@$(CARGO_DEB_VERSION); }

# Two packages of one binary are the same, byte for byte: their times are the last commit's.
deb: build onnxruntime cargo-deb
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} cargo deb --no-build --locked

# KEY is the id of a secret key in gpg's keyring.
apt-repo:
	deploy/apt/repo.sh "$(KEY)"

# For boards, in a Debian 12 chroot: target/cross/segd_*_arm64.deb.
cross: cross-deps
	cross/build.sh

cross-deps:
	@scripts/deps.sh cross

test-cross: cross build onnxruntime
	@scripts/deps.sh test-cross
	cross/test-qemu.sh

# The dependencies are those that `make test` built. The emulated machine has no cycles to spare, so the daemon itself is optimised.
test-vm: vm-deps onnxruntime libtorch cargo-deb
	cargo test --workspace --locked --no-run --test camera_vm --config profile.dev.package.segd.opt-level=1
	rm -rf target/vm && mkdir -p target/vm
	cargo deb --no-build --profile dev --strip --fast --output target/vm/
	scripts/vm/build.sh
	scripts/vm/run.sh target/vm/segd_*.deb

test-camera: vm-deps onnxruntime libtorch
	scripts/vm/build.sh
	scripts/vm/run.sh -

vm-deps:
	@scripts/deps.sh vm

# For arm64, `make cross` first.
image: onnxruntime
	@scripts/deps.sh image
	deploy/container/image.sh $(SEGD_ARCH)

test-image:
	@scripts/deps.sh image
	deploy/container/test.sh

test-deploy: deps
	deploy/helm/check.sh

soak: build
	scripts/soak.py --minutes $(or $(MINUTES),45)

# Off the normal build: with coverage, and without video and networks.
fuzz:
	scripts/fuzz.sh $(or $(SECONDS),60)

trainer: libtorch onnxruntime
	cargo build --release --locked --workspace

# libtorch for the trainer only; segd does not use it.
libtorch: deps
	@trainer/libtorch.sh

bench: deps onnxruntime
	ORT_DYLIB_PATH="$(CURDIR)/.ort/libonnxruntime.so" cargo bench --locked --bench kernels --bench objects --bench events

# segd beside a Python loop with the same network and clip; PEERS="--rounds 5" is passed on.
bench-peers: build onnxruntime
	@scripts/deps.sh peers
	@scripts/fetch.sh clip
	@test -x .cache/peers/venv/bin/python || python3 -m venv .cache/peers/venv
	.cache/peers/venv/bin/pip install --quiet --disable-pip-version-check -r benches/peers/requirements.txt
	.cache/peers/venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r benches/peers/no-deps.txt
	.cache/peers/venv/bin/python benches/peers/compare.py $(PEERS)

clean:
	cargo clean
	rm -rf .ort .cache .libtorch
