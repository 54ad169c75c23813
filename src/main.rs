//! The binary: an exit code. Everything else is in the library, beginning with [`huskv::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Requests are allocated on one thread and freed on another, which the system's allocator pays for with a sixth of the
/// CPU time of a put (m).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    huskv::cli::main(std::env::args_os())
}
