//! The `graftling` command.

mod cli;

fn main() -> std::process::ExitCode {
    // SAFETY: no other thread exists yet.
    unsafe { graftling::gpu::set_runtime_directory() };
    cli::main()
}
