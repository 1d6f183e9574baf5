# make demo: adapts a small model to this project's source code in about two minutes, on any device.
# make test: runs everything that CI runs.

# wgpu first probes the window system, which complains without a directory for its sockets.
export XDG_RUNTIME_DIR ?= /tmp

.PHONY: demo test compilers device format lint model

demo: device
	cargo run --release --example adapt_gpu

test: device format lint model
	cargo test --lib --tests --examples
	cargo test --doc

# What the compilers of seven GPUs make of the kernels, and the products on cooperative matrices, which Mesa's newest software device computes. Needs Debian.
compilers:
	scripts/gpu-drivers setup
	cargo bench --profile dev --bench compiled -- --check
	cargo --config "target.'cfg(unix)'.runner = ['$(CURDIR)/scripts/gpu-drivers', 'lavapipe']" test --test gpu -- --ignored matrix

format:
	cargo fmt --check

lint:
	cargo clippy --all-targets -- -D warnings
	cargo clippy --lib --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# On Linux, a device needs a Vulkan driver; macOS and Windows include theirs.
device:
	@scripts/ensure-device

# Downloads the real models that the tests use.
model:
	@scripts/fetch-smollm2
	@scripts/fetch-minilm
