//! The `huskv` binary: the allocator, and the exit code of [`huskv::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Requests are allocated on one thread and freed on another, which costs the system's allocator a sixth of the CPU time
/// of a put (measured).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    huskv::cli::main(std::env::args_os())
}
