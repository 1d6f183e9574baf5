//! The command.

mod cli;

fn main() -> std::process::ExitCode {
    // SAFETY: this is the only thread yet.
    unsafe { graftling::gpu::set_runtime_directory() };
    cli::main()
}
