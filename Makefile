# make demo: adapts a small model to this project's source code, in about a minute, on whatever device there is.
# make test: everything that CI runs.

# wgpu asks the window system first, which grumbles without a place for its sockets.
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

# A device is a Vulkan driver on Linux; macOS and Windows bring theirs.
device:
	@scripts/ensure-device

# A real model for the tests.
model:
	@scripts/fetch-smollm2
