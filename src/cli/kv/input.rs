//! What is read from stdin or a file: values and transactions.
//!
//! Laws: at most 64 MiB, which no node takes.
//!
//! Not here: what it is for.

use std::fs::File;
use std::io::{self, Read};

const MOST_BYTES: u64 = 64 << 20;

/// All of stdin.
///
/// # Errors
/// In one line.
pub(crate) fn stdin() -> Result<Vec<u8>, String> {
    all("stdin", io::stdin().lock())
}

/// All of the file called `path`; stdin where it is `-`.
///
/// # Errors
/// In one line.
pub(crate) fn file(path: &str) -> Result<Vec<u8>, String> {
    if path == "-" {
        return stdin();
    }
    all(path, File::open(path).map_err(|error| format!("cannot read {path:?}: {error}"))?)
}

fn all(name: &str, from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {name:?}: {error}"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("{name} has over {MOST_BYTES} bytes, more than any node takes"));
    }
    Ok(bytes)
}
