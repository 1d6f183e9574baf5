# make demo: adapts a small model to this project's source code in about a minute, on any device.
# make test: runs everything that CI runs.

# wgpu first probes the window system, which complains without a directory for its sockets.
export XDG_RUNTIME_DIR ?= /tmp

.PHONY: demo test device format lint model

demo: device
	cargo run --release --example adapt_gpu

test: device format lint model
	cargo test --lib --tests --examples
	cargo test --doc

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
