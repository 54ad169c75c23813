//! The binary: an exit code. Everything else is in the library, beginning with [`huskv::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    huskv::cli::main(std::env::args_os())
}
